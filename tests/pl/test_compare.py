"""The grid of a comparison shows every method's own plane and clusters."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from sc_vaenb import pl


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"batch": ["a", "b"] * 20, "type": ["x"] * 20 + ["y"] * 20}, index=map(str, range(40)))
    adata = AnnData(np.ones((40, 2), np.float32), obs=obs)
    for name in ("pca", "cvae"):
        adata.obsm[f"X_umap_{name}"] = rng.normal(size=(40, 2))
        adata.obs[f"leiden_{name}"] = pd.Categorical((np.arange(40) % (2 + len(name))).astype(str))
    methods = pd.DataFrame({"method": ["PCA", "CVAE", "CVAE"], "embedding": ["X_pca", "X_cvae", "X_cvae_seed1"]})
    adata.uns["compare"] = {"methods": methods, "params": {"batch_key": "batch", "label_key": "type"}}
    return adata


def test_a_row_per_method_a_column_per_colour(adata):
    axes = pl.compare(adata, show=False)
    titles = [[ax.get_title() for ax in row] for row in axes]
    assert titles == [[f"{m} · {by}" for by in ("batch", "type", "leiden")] for m in ("PCA", "CVAE")]
    for row, name in zip(axes, ("pca", "cvae"), strict=True):
        for ax in row:
            (points,) = ax.collections
            found = np.asarray(points.get_offsets())
            expected = adata.obsm[f"X_umap_{name}"]
            np.testing.assert_allclose(found[np.lexsort(found.T)], expected[np.lexsort(expected.T)])
        colours = {tuple(colour) for colour in row[2].collections[0].get_facecolors()}
        assert len(colours) == adata.obs[f"leiden_{name}"].nunique()


def test_columns_are_aligned_whatever_the_legends(adata):
    adata.obs["leiden_pca"] = pd.Categorical([f"a long name of cluster {i % 30}" for i in range(40)])
    axes = pl.compare(adata, show=False)
    axes[0, 0].figure.draw_without_rendering()
    boxes = [[ax.get_window_extent() for ax in row] for row in axes]
    for first, second in zip(*boxes, strict=True):
        assert first.x0 == pytest.approx(second.x0)
        assert first.size == pytest.approx(second.size)


def test_clusters_are_named_on_the_cells_and_have_one_colour_in_all_rows(adata):
    axes = pl.compare(adata, show=False)
    pca, cvae = ([text.get_text() for text in ax.texts] for ax in axes[:, 2])
    assert (pca, cvae) == (list("01234"), list("012345"))
    assert not any(ax.texts for ax in axes[:, :2].flat)
    colours = [{tuple(colour) for colour in ax.collections[0].get_facecolors()} for ax in axes[:, 2]]
    assert colours[0] < colours[1]


def test_legends_of_all_rows_are_below_them_and_within_the_figure(adata):
    adata.obs["type"] = [f"a rather long name {i % 20}" for i in range(40)]
    axes = pl.compare(adata, show=False)
    figure = axes[0, 0].figure
    figure.draw_without_rendering()
    legends = [ax.get_legend() for ax in figure.axes if ax.get_legend()]
    assert [legend.get_title().get_text() for legend in legends] == ["batch", "type"]
    boxes = [legend.get_window_extent() for legend in legends]
    lowest = min(ax.get_window_extent().y0 for ax in axes.flat)
    assert lowest > boxes[0].y1 > boxes[0].y0 >= boxes[1].y1
    assert all(figure.bbox.contains(*corner) for box in boxes for corner in box.corners())
    assert figure.get_figwidth() == pytest.approx(4.95, abs=0.01)
    assert min(ax.get_window_extent().width for ax in axes.flat) > 1.4 * figure.dpi


def test_numbers_of_batches_have_a_colour_bar(adata):
    adata.obs["batch"] = np.arange(40) % 3
    figure = pl.compare(adata, show=False)[0, 0].figure
    bars = [child for ax in figure.axes for child in ax.child_axes]
    assert [bar.get_title(loc="left") for bar in bars] == ["batch"]
    assert [ax.get_legend().get_title().get_text() for ax in figure.axes if ax.get_legend()] == ["type"]


def test_without_labels_there_are_two_columns(adata):
    del adata.uns["compare"]["params"]["label_key"]
    assert pl.compare(adata, show=False).shape == (2, 2)


def test_what_is_gone_is_named(adata):
    with pytest.raises(KeyError, match="uns\\['no'\\] holds no comparison"):
        pl.compare(adata, "no", show=False)
    del adata.obsm["X_umap_cvae"]
    with pytest.raises(KeyError, match="obsm has no 'X_umap_cvae'"):
        pl.compare(adata, show=False)
