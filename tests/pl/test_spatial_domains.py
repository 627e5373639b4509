"""The plot of a tissue shows each cell once, in the panel of its slice, at its place, in the colour of its label."""

import anndata as ad
import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgba

from sc_vaenb import pl
from sc_vaenb.pl._colors import PALETTE


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture
def adata():
    """Three slices of different size and place."""
    rng = np.random.default_rng(0)
    obs = pd.DataFrame(
        {"slice": np.repeat(["b", "a", "c"], [30, 20, 10]), "domain": pd.Categorical(rng.choice(["out", "in"], 60))},
        index=[f"cell{i}" for i in range(60)],
    )
    adata = ad.AnnData(rng.poisson(1.0, (60, 3)).astype(np.float32), obs=obs)
    adata.obsm["spatial"] = rng.uniform(0, 9, (60, 2)) + 100 * np.repeat([[0], [1], [2]], [30, 20, 10], axis=0)
    return adata


def by_place(ax):
    (points,) = ax.collections
    return {
        tuple(xy): colour for xy, colour in zip(points.get_offsets().tolist(), points.get_facecolors(), strict=True)
    }


def test_each_slice_has_a_panel_with_its_cells_in_their_places_and_colours(adata):
    axes = pl.spatial_domains(adata, "domain", slice_key="slice", show=False)
    assert [ax.get_title() for ax in axes] == ["a", "b", "c"]
    colour = {"in": to_rgba(PALETTE[0]), "out": to_rgba(PALETTE[1])}
    for ax in axes:
        cells = adata.obs["slice"] == ax.get_title()
        drawn = by_place(ax)
        assert len(drawn) == cells.sum()
        for place, domain in zip(adata.obsm["spatial"][cells], adata.obs["domain"][cells], strict=True):
            assert tuple(drawn[tuple(place)]) == colour[domain]
        assert ax.get_aspect() == 1
        low, high = ax.get_ylim()
        assert low > high  # y points down


def test_there_is_one_legend_for_all_slices(adata):
    for ncols in (1, 2, 4):
        axes = pl.spatial_domains(adata, "domain", slice_key="slice", ncols=ncols, show=False)
        legends = [legend for ax in axes[0].figure.axes if (legend := ax.get_legend()) is not None]
        assert [[text.get_text() for text in legend.get_texts()] for legend in legends] == [["in", "out"]]


def test_without_a_column_all_cells_are_in_one_panel(adata):
    (ax,) = pl.spatial_domains(adata, "domain", show=False)
    assert len(by_place(ax)) == 60


def test_a_gene_has_one_scale_in_all_slices(adata):
    axes = pl.spatial_domains(adata, adata.var_names[0], slice_key="slice", show=False)
    counts = {tuple(place): x for place, x in zip(adata.obsm["spatial"], adata.X[:, 0], strict=True)}
    colours = {place: colour for ax in axes for place, colour in by_place(ax).items()}
    one_value = [tuple(colours[place]) for place, x in counts.items() if x == 1]
    assert len(set(one_value)) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"color": "no"}, KeyError, "color 'no' is neither a column of obs nor one of the 3 genes"),
        ({"basis": "no"}, KeyError, "'no' is not in adata.obsm, which holds"),
        ({"slice_key": "no"}, KeyError, "slice_key='no' is not in adata.obs"),
        ({"basis": "line"}, ValueError, r"basis='line': obsm\['line'\] has 1 columns"),
    ],
)
def test_what_is_not_there_is_refused(adata, arguments, error, message):
    adata.obsm["line"] = np.zeros((60, 1))
    with pytest.raises(error, match=message):
        pl.spatial_domains(adata, **{"color": "domain"} | arguments, show=False)


def test_a_place_that_is_no_number_is_refused_by_the_name_of_the_cell(adata):
    adata.obsm["spatial"][7, 1] = np.nan
    with pytest.raises(
        ValueError, match=r"obsm\['spatial'\] holds no finite coordinates for 1 cells \(first: 'cell7'\)"
    ):
        pl.spatial_domains(adata, "domain", show=False)
