"""One dimension: cells above, genes below, on one axis."""

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pytest

import sc_vaenb
from sc_vaenb import pl
from sc_vaenb.pl._colors import for_text


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def learned(fitted):
    sc_vaenb.tl.factors(fitted, n_top=3, device="cpu")
    return fitted


def test_cells_by_median_above_genes_on_the_same_axis(learned, unchanged):
    with unchanged(learned):
        axes = pl.latent(learned, dimension=2, groupby="cell_type", show=False)
    above, below = axes["cells"], axes["genes"]
    assert above.get_xlim() == below.get_xlim()
    state = learned.obsm["X_vae_factors"][:, 2]
    median = learned.obs.assign(z=state).groupby("cell_type", observed=True)["z"].median().sort_values()
    assert [tick.get_text() for tick in above.get_yticklabels()] == list(median.index)
    np.testing.assert_allclose([line.get_xdata()[0] for line in above.lines], median, atol=1e-6)
    assert below.get_xlabel() == "z2"
    assert above.get_title("left") == "cells by cell_type"


def test_lines_are_those_of_the_sweep_with_names_at_their_high_end(learned):
    below = pl.latent(learned, dimension="z1", n_genes=2, show=False)["genes"]
    record = learned.uns["vae_factors"]
    at, chosen = list(record["dimensions"].index).index("z1"), [0, 1, 3, 4]
    for line, gene in zip(below.lines, chosen, strict=True):
        np.testing.assert_allclose(line.get_ydata(), record["sweep"]["log1p"][at, gene])
        np.testing.assert_allclose(line.get_xdata(), record["sweep"]["z"][at])
        assert line.get_label() == record["sweep"]["genes"][at, gene]
    assert [text.get_text() for text in below.texts] == [line.get_label() for line in below.lines]
    assert [text.get_ha() for text in below.texts] == ["left", "left", "right", "right"]
    assert [text.get_color() for text in below.texts] == [for_text(line.get_color()) for line in below.lines]


def test_names_do_not_cover_each_other(learned):
    below = pl.latent(learned, show=False)["genes"]
    below.figure.draw_without_rendering()
    for side in ("left", "right"):
        boxes = sorted(
            (text.get_window_extent() for text in below.texts if text.get_ha() == side), key=lambda box: box.y0
        )
        assert all(low.y1 <= high.y0 + 1 for low, high in pairwise(boxes))


def test_dimension_and_groups_are_chosen_by_the_data(learned):
    record = learned.uns["vae_factors"]
    axes = pl.latent(learned, show=False)
    first = record["dimensions"].index[0]
    assert axes["genes"].get_xlabel() == first
    between = record["association"].loc[["batch", "cell_type"], first].astype(float)
    assert axes["cells"].get_title("left") == f"cells by {between.idxmax()}"


def test_few_cells_are_drawn_as_points(learned):
    learned.obs["few"] = np.where(np.arange(300) < 3, "few", "many")
    above = pl.latent(learned, dimension=0, groupby="few", show=False)["cells"]
    points = next(line for line in above.lines if line.get_marker() == "o")
    np.testing.assert_allclose(points.get_xdata(), learned.obsm["X_vae_factors"][:3, 0])
    assert len(above.collections) == 1


@pytest.mark.parametrize(
    ("kwargs", "error", "text"),
    [
        ({"key": "no"}, KeyError, r"uns\['no_factors'\] does not say what the dimensions are"),
        ({"dimension": 4}, ValueError, r"dimension=4 is not known\. Choose 'z0' to 'z3', or the number alone"),
        ({"groupby": "no"}, KeyError, r"groupby='no' is not in adata\.obs"),
        ({"groupby": "depth_factor"}, ValueError, r"obs\['depth_factor'\] holds 300 categories"),
        ({"n_genes": 0}, ValueError, r"n_genes=0 is not possible"),
    ],
)
def test_what_cannot_be_drawn_is_refused(learned, refused, kwargs, error, text):
    with refused(learned, error, text):
        pl.latent(learned, show=False, **kwargs)
    assert not plt.get_fignums()


def test_without_described_categories_one_has_to_be_named(learned, refused):
    record = learned.uns["vae_factors"]
    record["association"] = record["association"].query("measure == 'spearman'")
    with refused(learned, ValueError, r"groupby is None, and no categories were described\. Name a column of obs"):
        pl.latent(learned, show=False)


def test_states_of_another_model_are_refused(learned):
    learned.obsm["X_vae_factors"] = learned.obsm["X_vae_factors"][:, :1]
    with pytest.raises(
        ValueError, match=r"obsm\['X_vae_factors'\] has 1 dimensions, but uns\['vae_factors'\] describes 4"
    ):
        pl.latent(learned, show=False)
