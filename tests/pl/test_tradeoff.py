"""The trade-off shows each seed and mean where it is, on axes that do not blow up a difference."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from matplotlib.text import Text

from sc_vaenb import pl


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def compared(scores):
    """An AnnData with a comparison: bio and batch by method, one pair a seed; PCA is uncorrected."""
    rows = [
        (method, f"X_{method}_{seed}", *pair) for method, pairs in scores.items() for seed, pair in enumerate(pairs)
    ]
    table = pd.DataFrame(rows, columns=["method", "embedding", "bio", "batch"])
    values = table.set_index("embedding")[["bio", "batch"]]
    values["total"] = 0.6 * values["bio"] + 0.4 * values["batch"]
    adata = AnnData(np.ones((3, 2), np.float32))
    adata.uns["compare"] = {
        "scores": {"values": values, "metrics": pd.DataFrame(), "params": {"reference": "X_PCA_0"}},
        "methods": table[["method", "embedding"]].assign(seconds=1.0),
    }
    return adata


@pytest.fixture
def adata():
    return compared({"PCA": [(0.72, 0.40)], "CVAE": [(0.70, 0.60), (0.74, 0.62)]})


def points(ax, size):
    """What is drawn as a circle of this size: (batch, bio)."""
    found = [line.get_xydata() for line in ax.lines if line.get_marker() == "o" and line.get_markersize() == size]
    return np.concatenate(found)


def names(ax):
    return [text for text in ax.texts if hasattr(text, "xy")]


def test_a_dot_per_seed_and_a_ring_at_their_mean(adata, unchanged):
    with unchanged(adata):
        ax = pl.tradeoff(adata, show=False)
    np.testing.assert_allclose(points(ax, 4), [[0.40, 0.72], [0.60, 0.70], [0.62, 0.74]])
    np.testing.assert_allclose(points(ax, 12), [[0.40, 0.72], [0.61, 0.72]])
    assert {text.get_text(): text.xy for text in names(ax)} == {
        "PCA (uncorrected)": pytest.approx((0.40, 0.72)),
        "CVAE": pytest.approx((0.61, 0.72)),
    }
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("batch score", "bio score")
    assert "dots: seeds" in ax.get_title(loc="left")


def test_lines_of_equal_total_have_their_total_on_them(adata):
    ax = pl.tradeoff(adata, show=False)
    written = [text for text in ax.texts if not hasattr(text, "xy")]
    assert len(written) > 3
    for text in written:
        x, y = text.get_position()
        assert 0.6 * y + 0.4 * x == pytest.approx(float(text.get_text()))
        assert np.linalg.norm(points(ax, 4) - [x, y], axis=1).min() > 0.01
    lines = [line.get_xydata() for line in ax.lines if len(line.get_xydata()) == 2 and line.get_linestyle() == "-"]
    totals = [xy @ [0.4, 0.6] for xy in lines]
    np.testing.assert_allclose(np.ptp(totals, axis=1), 0, atol=1e-12)
    assert {f"{total:.2f}" for total, _ in totals} >= {text.get_text() for text in written}


def test_dotted_lines_pass_through_the_uncorrected_embedding(adata):
    ax = pl.tradeoff(adata, show=False)
    vertical, horizontal = (line for line in ax.lines if line.get_linestyle() == ":")
    np.testing.assert_allclose(vertical.get_xdata(), 0.40)
    np.testing.assert_allclose(horizontal.get_ydata(), 0.72)
    del adata.uns["compare"]["scores"]["params"]
    ax = pl.tradeoff(adata, show=False)
    assert not any(line.get_linestyle() == ":" for line in ax.lines)
    assert [text.get_text() for text in names(ax)] == ["PCA", "CVAE"]


@pytest.mark.parametrize(
    "scores",
    [
        {"PCA": [(0.500, 0.500)], "CVAE": [(0.501, 0.499)]},
        {"PCA": [(0.99, 0.01)], "CVAE": [(0.98, 0.02)]},
        {"PCA": [(0.6, 0.1)], "CVAE": [(0.65, 0.9)]},
        {"PCA": [(0.0, 0.0)], "CVAE": [(1.0, 1.0)]},
    ],
)
def test_axes_are_alike_and_never_zoom_in_on_a_small_difference(scores):
    ax = pl.tradeoff(compared(scores), show=False)
    (left, right), (low, high) = ax.get_xlim(), ax.get_ylim()
    assert right - left == pytest.approx(high - low)
    assert right - left > 0.299
    assert min(left, low) >= 0
    assert max(right, high) <= 1
    assert ax.get_aspect() == 1
    xy = points(ax, 4)
    assert ((xy >= [left, low]) & (xy <= [right, high])).all()


@pytest.mark.slow
@pytest.mark.parametrize("spread", [0.02, 0.1])
def test_labels_of_eight_methods_cover_nothing(spread):
    rng = np.random.default_rng(0)
    methods = ["PCA", "Harmony", "VAE", "CVAE", "cvae_wide", "cvae of a rather long name", "linear", "deep"]
    around = {method: 0.6 + spread * rng.uniform(-1, 1, 2) for method in methods}
    adata = compared({method: [centre, centre + 0.004] for method, centre in around.items()})
    ax = pl.tradeoff(adata, show=False)
    ax.figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in names(ax)]
    assert len(boxes) == 8
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    for dot in ax.transData.transform(points(ax, 4)):
        assert not any(box.contains(*dot) for box in boxes)
    inside = ax.get_window_extent()
    assert all(inside.contains(*corner) for box in boxes for corner in (box.min, box.max))
    rings = [line for line in ax.lines if line.get_marker() == "o" and line.get_markersize() == 12]
    assert len({line.get_markeredgecolor() for line in rings}) == 8


def test_scores_alone_are_drawn_too(adata):
    adata.uns["scores"] = adata.uns["compare"]["scores"]
    ax = pl.tradeoff(adata, "scores", show=False)
    assert [text.get_text() for text in names(ax)] == ["PCA_0 (uncorrected)", "CVAE_0", "CVAE_1"]
    assert "seeds" not in ax.get_title(loc="left")


def test_draws_into_a_figure_of_the_user(adata):
    figure = plt.figure(figsize=(9, 4))
    left, right = figure.subfigures(1, 2)
    ax = pl.tradeoff(adata, fig=right, show=False)
    assert right.axes == [ax]
    assert not left.axes
    assert plt.get_fignums() == [figure.number]


def test_without_labels_or_batches_the_way_out_is_named(adata, refused):
    values = adata.uns["compare"]["scores"]["values"]
    adata.uns["compare"]["scores"]["values"] = values[["batch"]]
    with refused(adata, ValueError, r"no bio score: it was made without label_key. Run sc_vaenb.tl.compare\(adata, .*"):
        pl.tradeoff(adata, show=False)
    adata.uns["scores"] = {"values": values[["bio"]], "metrics": pd.DataFrame()}
    with refused(adata, ValueError, r"no batch score: it was made without batch_key. Run sc_vaenb.tl.score\(adata, .*"):
        pl.tradeoff(adata, "scores", show=False)
    with refused(adata, KeyError, r"uns\['no'\] holds no scores"):
        pl.tradeoff(adata, "no", show=False)
    assert not plt.get_fignums()
