"""Biology kept against batches mixed: what a method gives and what it takes."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from .._checks import checked
from ..metrics.catalogue import BIO_WEIGHT
from ._embedding import PALETTES, PLAIN
from ._figure import get_figure, show_or_return
from ._scores import read_scores
from ._text import as_label

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure
    from matplotlib.text import Annotation
    from numpy.typing import NDArray

LEAST_SPAN = 0.3  # of both axes: no difference looks larger than on a third of the whole scale
ROOM = 0.05  # of the axes around the outermost point
FAINT = "0.55"
REACH = (11, 17, 24, 32, 41, 52, 64, 80, 100)  # points from a mean to its label, nearest first


@checked
def tradeoff(
    adata: AnnData, key: str = "compare", *, fig: Figure | SubFigure | None = None, show: bool | None = None
) -> Axes | None:
    """Plot the biology score of each method against its batch score, with lines of equal total.

    A dot is a seed, the ring around it the mean of the method. Better is up and to the right; the faint lines join
    what has the same total, 0.6 bio + 0.4 batch, and the dotted ones pass through the embedding before any correction
    (what is above both is better than it in both). Both axes have the same scale and span, of at least 0.3 and
    otherwise as wide as the scores need, so that a difference of 0.01 looks as small as it is.

    Parameters
    ----------
    adata
        Annotated data with the scores of :func:`sc_vaenb.tl.compare` or :func:`sc_vaenb.tl.score`.
    key
        Where they are in ``adata.uns``: the ``key_added`` of that call.
    fig
        Figure or subfigure to draw into, laid out with constrained layout unless it has a layout engine already.
        A new figure by default.
    show
        Show the figure; by default as :attr:`scanpy.settings.autoshow` says.

    Returns
    -------
    The axes, or `None` if shown.

    Raises
    ------
    KeyError
        If there are no scores.
    ValueError
        If there is no biology score, for want of labels, or no batch score, for want of batches.
    """
    values, reference = _read(adata, key)
    methods = list(dict.fromkeys(values["method"]))
    mean = values.groupby("method")[["batch", "bio"]].mean().loc[methods]
    points = values[["batch", "bio"]].to_numpy()

    figure = get_figure(fig, (5.6, 5.6))
    ax: Axes = figure.add_subplot()
    (left, right), (low, high) = _limits(points)
    ax.set(xlim=(left, right), ylim=(low, high), xlabel="batch score", ylabel="bio score")
    ticks = 0.05 if right - left < 0.45 else 0.1
    ax.set_xticks(_multiples(ticks, left, right))
    ax.set_yticks(_multiples(ticks, low, high))
    ax.set_aspect("equal")
    ax.spines[["top", "right"]].set_visible(False)
    said = f"grey lines: equal total, {BIO_WEIGHT:g} bio + {1 - BIO_WEIGHT:g} batch"
    if len(values) > len(methods):
        said += "; dots: seeds, rings: their means"
    ax.set_title(said, loc="left", fontsize="small", color=PLAIN)

    totals = _equal_totals(ax, ticks, points)
    if reference is not None:
        for line, at in zip((ax.axvline, ax.axhline), mean.loc[reference], strict=True):
            line(at, color=PLAIN, linewidth=0.8, linestyle=":", zorder=1)
    palette = next((p for p in PALETTES if len(p) >= len(methods)), PALETTES[-1])
    colours = dict(zip((m for m in methods if m != reference), itertools.cycle(palette), strict=False))
    labels = []
    for method, (x, y) in mean.iterrows():
        colour, seeds = colours.get(str(method), PLAIN), values[values["method"] == method]
        ax.plot(x, y, "o", markersize=12, color=(colour, 0.2), markeredgecolor=colour, clip_on=False, zorder=3)
        ax.plot(seeds["batch"], seeds["bio"], "o", markersize=4, color=colour, clip_on=False, zorder=4)
        labels.append(ax.annotate(
            f"{as_label(method)} (uncorrected)" if method == reference else as_label(method),
            (x, y), xytext=(0, 0), textcoords="offset points", ha="center", va="center", fontsize=9,
            color=np.multiply(to_rgb(colour), 0.6), zorder=5,
            arrowprops={"arrowstyle": "-", "linewidth": 0.7, "color": colour, "shrinkA": 0, "shrinkB": 0},
            path_effects=[effects.withStroke(linewidth=2.5, foreground="white")], annotation_clip=False,
        ))  # fmt: skip
    _place(ax, labels, points, totals)
    return show_or_return(ax, show)


def _read(adata: AnnData, key: str) -> tuple[pd.DataFrame, str | None]:
    """Scores with the method of each row, and the method that is the embedding before correction, if it is there."""
    values = read_scores(adata, key)[0]
    record: Any = adata.uns[key]
    for name, needed in {"bio": "label_key", "batch": "batch_key"}.items():
        if name not in values:
            call = "compare" if "methods" in record else "score"
            msg = (
                f"uns[{key!r}] holds no {name} score: it was made without {needed}. "
                f"Run sc_vaenb.tl.{call}(adata, ..., {needed}=...) with a column of obs, or see sc_vaenb.pl.scores."
            )
            raise ValueError(msg)
    reference = record.get("scores", record).get("params", {}).get("reference")
    return values, str(values.loc[reference, "method"]) if reference in values.index else None


def _limits(points: NDArray[np.float64]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Limits of both axes: of one span, multiples of 0.05, within 0 .. 1."""
    lowest, highest = points.min(axis=0) - ROOM, points.max(axis=0) + ROOM
    span = min(1.0, max(LEAST_SPAN, np.ceil((highest - lowest).max() / 0.05) * 0.05))
    begin = np.clip(np.round((lowest + highest - span) / 2 / 0.05) * 0.05, 0, 1 - span)
    (x, y) = begin.round(2).tolist()
    return (x, round(x + span, 2)), (y, round(y + span, 2))


def _multiples(step: float, low: float, high: float) -> NDArray[np.float64]:
    return np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1) * step


def _equal_totals(ax: Axes, step: float, points: NDArray[np.float64]) -> list[Text]:
    """Faint lines of equal total, each with its number, as near to the lower right end as the points leave room."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    of_batch, of_bio = 1 - BIO_WEIGHT, BIO_WEIGHT
    room = 0.06 * (right - left)
    texts = []
    for total in _multiples(step, of_bio * low + of_batch * left, of_bio * high + of_batch * right):
        x = np.clip((total - of_bio * np.array([high, low])) / of_batch, left, right)  # where it enters and leaves
        ax.plot(x, (total - of_batch * x) / of_bio, color=FAINT, linewidth=0.7, alpha=0.6, zorder=0.5)
        for at in np.arange(x[1] - room, x[0] + room, -room):
            y = (total - of_batch * at) / of_bio
            if np.linalg.norm(points - [at, y], axis=1).min() > room:
                texts.append(ax.text(
                    at, y, f"{total:.2f}", ha="center", va="center", fontsize=7, color=FAINT, zorder=0.6,
                    rotation=np.degrees(np.arctan(-of_batch / of_bio)),
                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.0},
                ))  # fmt: skip
                break
    return texts


def _place(ax: Axes, labels: list[Annotation], points: NDArray[np.float64], soft: list[Text]) -> None:
    """Put each label beside its mean, where it covers no point, no other label and no line to one."""
    root = ax.figure.figure
    root.draw_without_rendering()  # so that sizes are known
    unit = root.dpi / 72
    means = [ax.transData.transform(label.xy) for label in labels]
    sizes = [np.array(Text.get_window_extent(label).size) for label in labels]  # of the text alone
    rings = [Bbox([mean - 7 * unit, mean + 7 * unit]) for mean in means]
    dots = [Bbox([dot - 3 * unit, dot + 3 * unit]) for dot in ax.transData.transform(points)]
    totals = [text.get_window_extent() for text in soft]
    inside = ax.get_window_extent()
    ways = [np.array([np.cos(a), np.sin(a)]) for a in np.arange(16) * np.pi / 8]
    boxes: dict[int, Bbox] = {}
    leads: dict[int, Path] = {}

    def cost(i: int, reach: float, way: NDArray[np.float64]) -> tuple[float, Bbox, Path, tuple[float, float]]:
        middle = means[i] + way * (reach * unit + sizes[i] / 2)
        box, lead = Bbox([middle - sizes[i] / 2 - unit, middle + sizes[i] / 2 + unit]), Path([means[i], middle])
        others = [at for j, at in boxes.items() if j != i]
        hard = [*others, *rings, *dots]
        crossed = [*others, *(ring for j, ring in enumerate(rings) if j != i)]
        clashes = box.count_overlaps(hard) + sum(lead.intersects_bbox(at) for at in crossed)
        clashes += sum(lead.intersects_path(at) or at.intersects_bbox(box) for j, at in leads.items() if j != i)
        clashes += not (inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and box.y1 <= inside.y1)
        x, y = (middle - means[i]) / unit
        apart = means[i] - np.array(means)
        away = (apart / (np.square(apart).sum(axis=1, keepdims=True) + unit)).sum(axis=0)  # from the nearest means
        outwards = way @ away / (np.linalg.norm(away) + 1e-9)
        return 1_000 * clashes + 10 * box.count_overlaps(totals) + reach - 3 * outwards, box, lead, (x, y)

    for _ in range(3):  # the first labels are placed anew once the others are known
        for i, label in enumerate(labels):
            tried = ((*cost(i, reach, way), reach) for reach in REACH for way in ways)
            _, boxes[i], leads[i], offset, reach = min(tried, key=lambda found: found[0])
            label.set_position(offset)
            assert label.arrow_patch is not None  # it has arrowprops
            label.arrow_patch.set_visible(reach > REACH[1] or rings[i].count_overlaps(rings) > 1)
