"""Plot the biology score of each method against its batch score."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import matplotlib.patheffects as effects
import numpy as np
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from .._checks import checked
from ..metrics.catalogue import BIO_WEIGHT
from ._colors import for_text, ink, palette_of_style
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

MIN_SPAN = 0.3  # of both axes, so that small differences do not look large
MARGIN = 0.05  # around the outermost points, in units of the scores
LABEL_DISTANCES = (11, 17, 24, 32, 41, 52, 64, 80, 100)  # points from a mean to its label, nearest first


@checked
def tradeoff(
    adata: AnnData, key: str = "compare", *, fig: Figure | SubFigure | None = None, show: bool | None = None
) -> Axes | None:
    """Plot the biology score of each method against its batch score, with lines of equal total.

    A dot is a seed; a ring is the mean of the method. Up and to the right is better. Faint lines connect points of
    equal total, 0.6 bio + 0.4 batch. Dotted lines pass through the embedding before correction: a method above and to
    the right of both is better in both scores. Both axes have the same scale and span, which is 0.3 or as much as the
    scores need, so that a difference of 0.01 looks small.

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

    See Also
    --------
    sc_vaenb.tl.score : Computes the scores.
    sc_vaenb.pl.scores : All scores as a table.
    """
    values, reference = _read(adata, key)
    methods = list(dict.fromkeys(values["method"]))
    mean = values.groupby("method")[["batch", "bio"]].mean().loc[methods]
    points = values[["batch", "bio"]].to_numpy()

    figure = get_figure(fig, (5.6, 5.6))
    ax: Axes = figure.add_subplot()
    (left, right), (low, high) = _limits(points)
    ax.set(xlim=(left, right), ylim=(low, high), xlabel="batch score", ylabel="bio score")
    tick_step = 0.05 if right - left < 0.45 else 0.1
    ax.set_xticks(_multiples(tick_step, left, right))
    ax.set_yticks(_multiples(tick_step, low, high))
    ax.set_aspect("equal")
    ax.spines[["top", "right"]].set_visible(False)
    title = f"grey lines: equal total, {BIO_WEIGHT:g} bio + {1 - BIO_WEIGHT:g} batch"
    if len(values) > len(methods):
        title += "; dots: seeds, rings: their means"
    ax.set_title(title, loc="left", fontsize="small", color=ink(0.7))

    totals = _equal_totals(ax, tick_step, points)
    if reference is not None:
        for line, position in zip((ax.axvline, ax.axhline), mean.loc[reference], strict=True):
            line(position, color=ink(0.7), linewidth=0.8, linestyle=":", zorder=1)
    colours = dict(zip((m for m in methods if m != reference), itertools.cycle(palette_of_style()), strict=False))
    labels = []
    for method, (x, y) in mean.iterrows():
        colour, seeds = colours.get(str(method), ink(0.7)), values[values["method"] == method]
        ax.plot(x, y, "o", markersize=12, color=(colour, 0.2), markeredgecolor=colour, clip_on=False, zorder=3)
        ax.plot(seeds["batch"], seeds["bio"], "o", markersize=4, color=colour, clip_on=False, zorder=4)
        labels.append(ax.annotate(
            f"{as_label(method)} (uncorrected)" if method == reference else as_label(method),
            (x, y), xytext=(0, 0), textcoords="offset points", ha="center", va="center", fontsize="small",
            color=for_text(colour), zorder=5,
            arrowprops={"arrowstyle": "-", "linewidth": 0.7, "color": colour, "shrinkA": 0, "shrinkB": 0},
            path_effects=[effects.withStroke(linewidth=2.5, foreground=ink(0))], annotation_clip=False,
        ))  # fmt: skip
    _place_labels(ax, labels, points, totals)
    return show_or_return(ax, show)


def _read(adata: AnnData, key: str) -> tuple[pd.DataFrame, str | None]:
    """The scores with the method of each row, and the method of the embedding before correction, if it was scored."""
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
    """Limits of both axes, with the same span: multiples of 0.05 within 0 .. 1."""
    lowest, highest = points.min(axis=0) - MARGIN, points.max(axis=0) + MARGIN
    span = min(1.0, max(MIN_SPAN, np.ceil((highest - lowest).max() / 0.05) * 0.05))
    lower_ends = np.clip(np.round((lowest + highest - span) / 2 / 0.05) * 0.05, 0, 1 - span)
    (x, y) = lower_ends.round(2).tolist()
    return (x, round(x + span, 2)), (y, round(y + span, 2))


def _multiples(step: float, low: float, high: float) -> NDArray[np.float64]:
    return np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1) * step


def _equal_totals(ax: Axes, step: float, points: NDArray[np.float64]) -> list[Text]:
    """Draw faint lines of equal total. The number of each is near its lower right end, where no point is close."""
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    batch_weight, bio_weight = 1 - BIO_WEIGHT, BIO_WEIGHT
    min_distance = 0.06 * (right - left)
    texts = []
    for total in _multiples(step, bio_weight * low + batch_weight * left, bio_weight * high + batch_weight * right):
        # where the line enters and leaves the axes
        ends = np.clip((total - bio_weight * np.array([high, low])) / batch_weight, left, right)
        ax.plot(ends, (total - batch_weight * ends) / bio_weight, color=ink(0.45), linewidth=0.7, alpha=0.6, zorder=0.5)
        for x_of_number in np.arange(ends[1] - min_distance, ends[0] + min_distance, -min_distance):
            y = (total - batch_weight * x_of_number) / bio_weight
            if np.linalg.norm(points - [x_of_number, y], axis=1).min() > min_distance:
                texts.append(ax.text(
                    x_of_number, y, f"{total:.2f}", ha="center", va="center", fontsize="x-small", color=ink(0.45),
                    zorder=0.6, rotation=np.degrees(np.arctan(-batch_weight / bio_weight)),
                    bbox={"facecolor": ink(0), "edgecolor": "none", "pad": 1.0},
                ))  # fmt: skip
                break
    return texts


def _place_labels(ax: Axes, labels: list[Annotation], points: NDArray[np.float64], total_texts: list[Text]) -> None:
    """Put each label beside its mean, where it covers no point, no other label and no line to another label."""
    root = ax.figure.figure
    root.draw_without_rendering()  # so that the sizes of texts are known
    pixels_per_point = root.dpi / 72
    means = [ax.transData.transform(label.xy) for label in labels]
    label_sizes = [np.array(Text.get_window_extent(label).size) for label in labels]  # without the line to the mean
    ring_boxes = [Bbox([mean - 7 * pixels_per_point, mean + 7 * pixels_per_point]) for mean in means]
    dot_boxes = [
        Bbox([dot - 3 * pixels_per_point, dot + 3 * pixels_per_point]) for dot in ax.transData.transform(points)
    ]
    total_boxes = [text.get_window_extent() for text in total_texts]
    axes_box = ax.get_window_extent()
    directions = [np.array([np.cos(a), np.sin(a)]) for a in np.arange(16) * np.pi / 8]
    boxes: dict[int, Bbox] = {}
    lines: dict[int, Path] = {}

    def cost(i: int, distance: float, direction: NDArray[np.float64]) -> tuple[float, Bbox, Path, tuple[float, float]]:
        center = means[i] + direction * (distance * pixels_per_point + label_sizes[i] / 2)
        box, line = (
            Bbox([center - label_sizes[i] / 2 - pixels_per_point, center + label_sizes[i] / 2 + pixels_per_point]),
            Path([means[i], center]),
        )
        others = [other for j, other in boxes.items() if j != i]
        obstacles = [*others, *ring_boxes, *dot_boxes]
        not_to_cross = [*others, *(ring for j, ring in enumerate(ring_boxes) if j != i)]
        clashes = box.count_overlaps(obstacles) + sum(line.intersects_bbox(other) for other in not_to_cross)
        clashes += sum(
            line.intersects_path(other) or other.intersects_bbox(box) for j, other in lines.items() if j != i
        )
        clashes += not (
            axes_box.x0 <= box.x0 and box.x1 <= axes_box.x1 and axes_box.y0 <= box.y0 and box.y1 <= axes_box.y1
        )
        x, y = (center - means[i]) / pixels_per_point
        from_means = means[i] - np.array(means)
        # away from the nearest means
        repulsion = (from_means / (np.square(from_means).sum(axis=1, keepdims=True) + pixels_per_point)).sum(axis=0)
        outwardness = direction @ repulsion / (np.linalg.norm(repulsion) + 1e-9)
        return 1_000 * clashes + 10 * box.count_overlaps(total_boxes) + distance - 3 * outwardness, box, line, (x, y)

    for _ in range(3):  # repeated, because the first labels are placed before the others are known
        for i, label in enumerate(labels):
            candidates = (
                (*cost(i, distance, direction), distance) for distance in LABEL_DISTANCES for direction in directions
            )
            _, boxes[i], lines[i], offset, distance = min(candidates, key=lambda candidate: candidate[0])
            label.set_position(offset)
            assert label.arrow_patch is not None  # it has arrowprops
            label.arrow_patch.set_visible(distance > LABEL_DISTANCES[1] or ring_boxes[i].count_overlaps(ring_boxes) > 1)
