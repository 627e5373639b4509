import anndata as ad
import numpy as np
import pytest

from sc_vaenb import datasets
from sc_vaenb.datasets import _demo

# anndata (with pandas 3) asks pandas for a deprecated option while reading any file; not ours to fix.
reads_file = pytest.mark.filterwarnings("ignore:.*future.infer_string")


def dense(adata):
    return adata.X.toarray().astype(np.float64)


def codes(adata, key):
    return adata.obs[key].cat.codes.to_numpy()


def test_demo_holds_raw_counts(blood, assert_raw_counts):
    assert_raw_counts(blood)
    assert blood.n_obs == 700
    assert 755 <= blood.n_vars <= 765
    assert blood.obs["cell_type"].nunique() == 10
    assert blood.obs["batch"].cat.categories.tolist() == ["chip A", "chip B", "chip C"]
    assert "Zheng et al. 2017" in blood.uns["source"]
    assert {"CD3D", "NKG7", "CD79A"} <= set(blood.var_names)
    assert blood.uns["truth"]["efficiency"].shape == (3, blood.n_vars)


@reads_file
def test_integers_behind_the_published_values():
    import scanpy as sc

    counts, labels, genes = _demo._pbmc_counts()
    pbmc = sc.datasets.pbmc68k_reduced()
    assert counts.data.dtype.kind == "i"
    assert counts.data.min() == 1
    assert counts.data.max() == 259
    # An independent way: a cell's smallest value belongs to one molecule. Off by the file's three decimals only.
    value = np.expm1(pbmc.raw.X.toarray().astype(np.float64))
    by_unit = value / np.where(value > 0, value, np.inf).min(axis=1, keepdims=True)
    np.testing.assert_array_equal(np.rint(by_unit), counts.toarray())
    # And forth again: the published depth (all genes) gives the file's values to their last decimal.
    scale = 1e4 / pbmc.obs["n_counts"].to_numpy()[:, None]
    logged = np.log1p(counts.toarray() * scale)
    np.testing.assert_allclose(logged, pbmc.raw.X.toarray(), rtol=0, atol=0.00051)
    # Unambiguous: one molecule more is farther away than the rounding.
    step = np.log1p((counts.toarray() + 1) * scale) - logged
    assert step.min() > 0.003
    assert (pbmc.obs["n_counts"] >= counts.sum(axis=1).A1).all()
    assert labels.index.equals(pbmc.obs_names)
    assert list(genes) == list(pbmc.raw.var_names)


@reads_file
@pytest.mark.parametrize("spoil", ["scale", "values"])
def test_another_file_is_refused(spoil, monkeypatch):
    import scanpy as sc

    pbmc = sc.datasets.pbmc68k_reduced()
    pbmc.layers.pop("counts", None)  # scanpy 1.13 and newer: then nothing is recovered
    if spoil == "scale":
        pbmc.obs["n_counts"] *= 1.01
    else:
        pbmc.raw.X.data[100] += 0.01
    monkeypatch.setattr(sc.datasets, "pbmc68k_reduced", lambda: pbmc)
    with pytest.raises(
        ValueError, match=r"raw\.X is not log1p of counts per 10,000: .*0\.0005 expected.*install scanpy"
    ):
        datasets.demo()


def test_only_the_warnings_of_the_old_file_are_hidden(monkeypatch):
    import warnings

    import scanpy as sc

    original = sc.datasets.pbmc68k_reduced

    def noisy():
        warnings.warn("something else", UserWarning, stacklevel=1)
        warnings.warn("old", ad.OldFormatWarning, stacklevel=1)
        return original()

    monkeypatch.setattr(sc.datasets, "pbmc68k_reduced", noisy)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        datasets.demo()
    assert [str(w.message) for w in caught] == ["something else"]


@pytest.mark.parametrize("n_batches", [1, 3])
def test_thinning_ratio_is_the_efficiency(n_batches):
    adata = datasets.demo(n_batches, rng=6)
    counts, _, genes = _demo._pbmc_counts()
    before = counts.toarray()[:, genes.get_indexer(adata.var_names)]
    after, batch = dense(adata), codes(adata, "batch")
    assert (after <= before).all()
    np.testing.assert_array_equal(adata.obs["n_molecules"], counts.sum(axis=1).A1)
    np.testing.assert_array_equal(adata.var["n_molecules"], before.sum(axis=0))
    efficiency = adata.uns["truth"]["efficiency"]
    z = []
    for b in range(n_batches):
        n, k, p = before[batch == b].sum(axis=0), after[batch == b].sum(axis=0), efficiency[b]
        z.append(((k - n * p) / np.sqrt(np.maximum(n * p * (1 - p), 1e-9)))[n >= 50])
    z = np.concatenate(z)
    assert len(z) > 500
    assert abs(z.mean()) < 0.2
    assert 0.9 < z.std() < 1.1
    assert np.abs(z).max() < 5
    assert np.median(efficiency) == pytest.approx(0.5, abs=0.03)
    assert np.std(np.log(efficiency / (1 - efficiency))) == pytest.approx(_demo.EFFICIENCY_SPREAD, rel=0.1)


@pytest.mark.parametrize("step", [1, -1])
def test_a_seed_gives_the_same_data_in_whatever_order_the_file_holds_them(blood, monkeypatch, step):
    counts, labels, genes = _demo._pbmc_counts()
    row, column = counts.nonzero()
    order = np.lexsort((step * column, row))
    counts.data, counts.indices = np.asarray(counts[row, column]).ravel()[order], column[order]
    monkeypatch.setattr(_demo, "_pbmc_counts", lambda: (counts, labels, genes))
    np.testing.assert_array_equal(dense(datasets.demo()), dense(blood))


@pytest.mark.parametrize("n_batches", [2, 3, 26])
def test_labels_are_spread_evenly(n_batches):
    adata = datasets.demo(n_batches)
    n_of = adata.obs.groupby(["batch", "cell_type"], observed=False).size().unstack().to_numpy()
    assert np.ptp(n_of, axis=0).max() <= 1
    assert np.ptp(n_of.sum(axis=1)) <= 1
    assert adata.obs["batch"].nunique() == n_batches


def test_batches_do_not_follow_the_file_order():
    batch = codes(datasets.demo(2), "batch")
    assert (np.diff(batch) == 0).mean() == pytest.approx(0.5, abs=0.08)


def test_batch_effect_is_clear_and_biology_stays(blood, same_share):
    assert 0.5 < same_share(blood, "batch") < 0.75  # chance 0.33
    assert same_share(blood, "cell_type") > 0.65  # chance 0.19


def test_no_batch_effect_without_spread(monkeypatch, same_share):
    monkeypatch.setattr(_demo, "EFFICIENCY_SPREAD", 0)
    assert same_share(datasets.demo(), "batch") == pytest.approx(1 / 3, abs=0.03)


def test_genes_and_cells_without_counts_are_dropped(monkeypatch, assert_raw_counts):
    counts, labels, genes = _demo._pbmc_counts()
    counts = counts.tolil()
    counts[:, 3] = 0
    counts[5] = 0
    monkeypatch.setattr(_demo, "_pbmc_counts", lambda: (counts.tocsr(), labels, genes))
    adata = datasets.demo(2)
    assert genes[3] not in adata.var_names
    assert labels.index[5] not in adata.obs_names
    assert adata.n_obs == 699
    assert adata.uns["truth"]["efficiency"].shape == (2, adata.n_vars)
    assert_raw_counts(adata)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"n_batches": 0}, ValueError, "n_batches=0 is not possible. Give a whole number at least 1 and at most 26"),
        ({"n_batches": 27}, ValueError, "n_batches=27 is not possible. Give a whole number at least 1 and at most 26"),
        ({"n_batches": "3"}, TypeError, "n_batches='3' is not possible. Give a whole number"),
        ({"rng": True}, TypeError, "rng=True is not possible. Give a whole number"),
    ],
)
def test_demo_refuses(options, error, text):
    with pytest.raises(error, match=text):
        datasets.demo(**options)
