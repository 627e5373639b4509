import sys
import types

import numpy as np
import pytest

import sc_vaenb
from sc_vaenb.metrics import same_batch_share
from sc_vaenb.tl import _harmony


@pytest.fixture
def prepared(adata):
    sc_vaenb.pp.prepare(adata, batch_key="batch")
    return adata


def test_batches_mix_and_the_pca_is_kept(prepared, unchanged):
    with unchanged(prepared):
        result = sc_vaenb.tl.harmony(prepared, "batch", copy=True)
    share = {key: same_batch_share(result.obsm[key], result.obs["batch"]).share for key in ("X_pca", "X_pca_harmony")}
    assert share["X_pca_harmony"] < share["X_pca"] - 0.05
    assert result.obsm["X_pca_harmony"].shape == result.obsm["X_pca"].shape
    assert result.obsm["X_pca_harmony"].dtype == np.float32
    assert result.uns["pca_harmony"]["params"]["basis"] == "X_pca"


def test_a_basis_that_is_there_is_taken(prepared):
    basis = np.random.default_rng(0).normal(size=(300, 5))
    prepared.obsm["X_pca"] = basis.copy()
    sc_vaenb.tl.harmony(prepared, "batch", key_added="other")
    np.testing.assert_array_equal(prepared.obsm["X_pca"], basis)
    assert prepared.obsm["X_other"].shape == (300, 5)


def test_harmonypy_before_2_knows_no_number_of_cores(prepared, monkeypatch):
    def run_harmony(components, batches, name, *, verbose, random_state):
        return types.SimpleNamespace(Z_corr=components + 1.0)

    monkeypatch.setitem(sys.modules, "harmonypy", types.SimpleNamespace(run_harmony=run_harmony))
    sc_vaenb.tl.harmony(prepared, "batch")
    np.testing.assert_allclose(prepared.obsm["X_pca_harmony"], prepared.obsm["X_pca"] + 1, rtol=1e-5)


def test_no_more_threads_than_the_process_may_have(prepared, monkeypatch):
    given = {}

    def run_harmony(components, batches, name, *, ncores, **options):
        given.update(options | {"ncores": ncores})
        return types.SimpleNamespace(Z_corr=components)

    monkeypatch.setitem(sys.modules, "harmonypy", types.SimpleNamespace(run_harmony=run_harmony))
    monkeypatch.setattr(_harmony, "_n_cores", lambda: 3)
    sc_vaenb.tl.harmony(prepared, "batch", rng=5)
    assert given == {"verbose": False, "random_state": 5, "ncores": 3}


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"batch_key": "no"}, KeyError, "batch_key='no' is not in adata.obs"),
        ({"batch_key": "batch", "basis": "X_no"}, KeyError, "basis='X_no' is not in adata.obsm"),
        ({"batch_key": "batch", "layer": "no"}, KeyError, "layer='no' is not in adata.layers"),
        ({"batch_key": "batch", "rng": -1}, ValueError, "rng=-1"),
        ({"batch_key": "batch", "key_added": "pca"}, ValueError, "would replace the components"),
    ],
)
def test_what_cannot_be_is_refused(prepared, unchanged, arguments, error, text):
    with unchanged(prepared), pytest.raises(error, match=text):
        sc_vaenb.tl.harmony(prepared, **arguments)


def test_few_cells_are_refused(prepared, refused):
    few = prepared[:19].copy()
    with refused(few, ValueError, "adata has 19 cells: Harmony .* needs at least 20 cells"):
        sc_vaenb.tl.harmony(few, "batch")


@pytest.mark.parametrize("n_cells", [20, 44, 45])
def test_few_cells_are_one_cluster_or_two(prepared, n_cells):
    """harmonypy before 2 fails with one cluster, up to 44 cells, if it is called with its defaults."""
    few = prepared[:n_cells].copy()
    sc_vaenb.tl.harmony(few, "batch")
    assert np.isfinite(few.obsm["X_pca_harmony"]).all()


def test_a_pca_of_one_gene_is_refused(prepared, refused):
    alone = prepared[:, :1].copy()
    with refused(alone, ValueError, "adata has 300 cells and 1 genes to use: a PCA needs two of each at least"):
        sc_vaenb.tl.harmony(alone, "batch")


@pytest.mark.parametrize("n_components", [19, 20, 21])
def test_as_many_cells_as_components(prepared, n_components):
    """harmonypy tells cells from components by their number; components of zeros change nothing."""
    few = prepared[:20].copy()
    few.obsm["X_part"] = np.zeros((20, n_components))
    few.obsm["X_part"][:, :5] = np.random.default_rng(0).normal(size=(20, 5))
    few.obsm["X_five"] = few.obsm["X_part"][:, :5].copy()
    for name in ("part", "five"):
        sc_vaenb.tl.harmony(few, "batch", basis=f"X_{name}", key_added=f"{name}_harmony")
    np.testing.assert_allclose(few.obsm["X_part_harmony"][:, :5], few.obsm["X_five_harmony"], atol=1e-5)
    assert not few.obsm["X_part_harmony"][:, 5:].any()
    assert few.obsm["X_part_harmony"].shape == (20, n_components)
