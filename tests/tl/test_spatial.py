"""Domains of a tissue are found by what surrounds its cells; graphs that do not fit are refused."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import radius_neighbors_graph

from sc_vaenb import tl

SIDE = 30


@pytest.fixture
def adata():
    """Two slices in the same place, each of two halves with the same kinds of cells in other shares."""
    rng = np.random.default_rng(0)
    place = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), -1).reshape(-1, 2).astype(float)
    place = np.concatenate([place, place[:, ::-1]])
    upper = place[:, 1] >= SIDE / 2
    kind = np.where(rng.uniform(size=len(place)) < 0.5, upper, rng.integers(3, size=len(place)))
    obs = pd.DataFrame(
        {"slice": np.repeat(["a", "b"], SIDE**2), "domain": np.where(upper, "upper", "lower")},
        index=[f"cell{i}" for i in range(len(place))],
    )
    states = 3 * np.eye(3, 5)[kind] + rng.normal(size=(len(place), 5))
    return ad.AnnData(
        np.ones((len(place), 1), np.float32), obs, obsm={"spatial": place, "X_own": states.astype(np.float32)}
    )


def with_graph(adata, across=False):
    """The four nearest places of each cell, as squidpy writes them."""
    codes = adata.obs["slice"].cat.codes if across else (adata.obs["slice"] == "b").to_numpy()
    place = np.column_stack([adata.obsm["spatial"], (0 if across else 10) * codes])
    graph = radius_neighbors_graph(place, 1.1)
    adata.obsp["spatial_connectivities"] = graph
    adata.uns["spatial_neighbors"] = {"connectivities_key": "spatial_connectivities", "params": {}}
    return graph


def domains_found(adata, key):
    found = KMeans(2, n_init=3, random_state=0).fit_predict(adata.obsm[key])
    return adjusted_rand_score(adata.obs["domain"], found)


def test_domains_are_found_by_surroundings_and_not_by_single_cells(adata):
    tl.spatial(adata, "own", slice_key="slice")
    assert domains_found(adata, "X_own_spatial") > 0.8
    assert domains_found(adata, "X_own") < 0.5


def test_means_and_shares_weigh_the_same_and_are_of_one_slice(adata):
    tl.spatial(adata, "own", slice_key="slice", n_kinds=7)
    both = adata.obsm["X_own_spatial"]
    assert both.dtype == np.float32
    np.testing.assert_allclose(both.mean(axis=0), 0, atol=1e-5)
    parts = np.hsplit(both, [5])  # of the five dimensions, and of the kinds
    np.testing.assert_allclose([np.square(part).sum(axis=1).mean() for part in parts], 1, rtol=1e-4)
    assert both.shape == (adata.n_obs, 5 + 7)
    adata.obsm["spatial"][adata.obs["slice"] == "b"] *= 17  # another unit, in this slice alone
    tl.spatial(adata, "own", slice_key="slice", n_kinds=7)
    np.testing.assert_array_equal(adata.obsm["X_own_spatial"], both)


def test_the_graph_of_squidpy_is_used_and_counts_each_neighbour_once(adata):
    graph = with_graph(adata)
    tl.spatial(adata, "own", slice_key="slice", n_hops=1)
    with_self = (graph + sparse.eye(adata.n_obs)).tocsr()
    expected = with_self @ adata.obsm["X_own"] / with_self.sum(axis=1)
    expected -= expected.mean(axis=0)
    expected /= np.sqrt(np.square(expected).sum(axis=1).mean())
    np.testing.assert_allclose(adata.obsm["X_own_spatial"][:, :5], expected, atol=1e-4)
    once = adata.obsm["X_own_spatial"]
    tl.spatial(adata, "own", slice_key="slice", n_hops=1, n_kinds=0)
    np.testing.assert_allclose(adata.obsm["X_own_spatial"], expected, atol=1e-4)
    adata.obsp["spatial_connectivities"] = 0.3 * sparse.triu(graph, format="csr")  # weights, and one direction alone
    tl.spatial(adata, "own", slice_key="slice", n_hops=1)
    np.testing.assert_array_equal(adata.obsm["X_own_spatial"], once)
    assert tl.spatial(adata, "own", slice_key="slice", copy=True).uns["own_spatial"]["params"]["n_hops"] == 8


def test_the_slices_are_the_batches_of_the_embedding(adata):
    tl.spatial(adata, "own", slice_key="slice")
    expected = adata.obsm["X_own_spatial"]
    adata.uns["own"] = {"params": {"batch_key": "slice"}}
    tl.spatial(adata, "own")
    np.testing.assert_array_equal(adata.obsm["X_own_spatial"], expected)
    assert adata.uns["own_spatial"]["params"]["slice_key"] == "slice"
    adata.uns["own"] = {"params": {"batch_key": 5}}
    with pytest.raises(ValueError, match=r"uns\['own'\]\['params'\] is damaged: .* Name the slices with slice_key"):
        tl.spatial(adata, "own")


def test_a_file_on_disk_is_enough(adata, tmp_path):
    tl.spatial(adata, "own", slice_key="slice")
    expected = adata.obsm.pop("X_own_spatial")
    del adata.uns["own_spatial"]
    adata.write_h5ad(tmp_path / "tissue.h5ad")
    backed = ad.read_h5ad(tmp_path / "tissue.h5ad", backed="r")
    tl.spatial(backed, "own", slice_key="slice")
    np.testing.assert_array_equal(backed.obsm["X_own_spatial"], expected)
    backed.file.close()


def test_a_graph_across_slices_is_refused(adata):
    adata.obs["slice"] = adata.obs["slice"].astype("category")
    with_graph(adata, across=True)
    with pytest.raises(ValueError, match=r"neighbours are in different slices \(first: 'a' and 'b'\).* as library_key"):
        tl.spatial(adata, "own", slice_key="slice")
    assert "X_own_spatial" not in adata.obsm
    tl.spatial(adata, "own")  # one slice, as far as is known


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"key": "no"}, KeyError, "'X_no' is not in adata.obsm"),
        ({"neighbors_key": "no"}, KeyError, "neighbors_key='no' is no graph of neighbours"),
        ({"basis": "no"}, KeyError, "'no' is not in adata.obsm"),
        ({"slice_key": "no"}, KeyError, "slice_key='no' is not in adata.obs"),
        ({"key_added": "own"}, ValueError, "would replace the embedding"),
        ({"n_hops": -1}, ValueError, "n_hops=-1 is not possible"),
        ({"n_kinds": -1}, ValueError, "n_kinds=-1 is not possible"),
    ],
)
def test_what_is_not_there_or_not_possible_is_refused(adata, arguments, error, message):
    with pytest.raises(error, match=message):
        tl.spatial(adata, **{"key": "own"} | arguments)
    assert list(adata.obsm) == ["spatial", "X_own"]


def test_a_cell_without_coordinates_is_refused_by_name(adata):
    adata.obsm["spatial"][7, 1] = np.nan
    with pytest.raises(ValueError, match=r"obsm\['spatial'\] holds no finite coordinates for 1 cells \(first: 'cell7'"):
        tl.spatial(adata, "own")
