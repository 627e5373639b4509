import subprocess
import sys

import anndata as ad
import numpy as np
import pytest
from scipy import sparse as sp
from scipy import stats

from sc_vaenb import datasets

# anndata (with pandas 3) asks pandas for a deprecated option while reading any file; not ours to fix.
reads_file = pytest.mark.filterwarnings("ignore:.*future.infer_string")


def dense(adata):
    return adata.X.toarray().astype(np.float64)


def codes(adata, key):
    return adata.obs[key].cat.codes.to_numpy()


def expected(adata):
    """The mean of every count, from the truth."""
    truth = adata.uns["truth"]
    log_rate = truth["type_log_rate"][codes(adata, "cell_type")] + truth["batch_log_effect"][codes(adata, "batch")]
    return adata.obs["depth_factor"].to_numpy()[:, None] * np.exp(log_rate)


def same_share(adata, key, k=15):
    """Share of the k nearest neighbours (PCA of log-normalised counts) that agree with the cell in obs[key]."""
    import scanpy as sc
    from sklearn.neighbors import NearestNeighbors

    adata = adata.copy()
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=30)
    neighbours = NearestNeighbors(n_neighbors=k).fit(adata.obsm["X_pca"]).kneighbors(return_distance=False)
    code = codes(adata, key)
    return (code[neighbours] == code[:, None]).mean()


def assert_raw_counts(adata):
    assert isinstance(adata.X, sp.csr_matrix)
    assert adata.X.dtype == np.float32
    assert adata.X.has_canonical_format
    assert (adata.X.data >= 1).all()
    assert (adata.X.data == np.rint(adata.X.data)).all()
    assert (adata.X.getnnz(axis=0) > 0).all()
    assert (adata.X.getnnz(axis=1) > 0).all()
    assert set(adata.layers) <= {None}  # anndata 0.13 lists X here, under None


def assert_same(a, b):
    assert (a.X != b.X).nnz == 0
    assert a.obs.equals(b.obs)
    assert a.var.equals(b.var)
    assert a.uns["truth"].keys() == b.uns["truth"].keys()
    for key, value in a.uns["truth"].items():
        np.testing.assert_array_equal(value, b.uns["truth"][key])


@pytest.fixture(scope="module")
def simulated():
    return datasets.simulate(4000, 300, n_types=3, n_batches=2, mean_depth=[600, 1500], theta=1.5, rng=1)


@pytest.fixture(scope="module")
def blood():
    return datasets.demo()


# simulate: the counts are what the truth says


def test_simulated_counts_are_raw(simulated):
    assert_raw_counts(simulated)
    assert simulated.shape == (4000, 300)


def test_mean_and_variance_are_negative_binomial(simulated):
    x, mean, theta = dense(simulated), expected(simulated), simulated.var["theta"].to_numpy()
    variance = mean + mean**2 / theta
    z = (x - mean).sum(axis=0) / np.sqrt(variance.sum(axis=0))
    assert np.abs(z).max() < 4.5  # 300 genes: 4.5 sd has a chance of 0.2 %
    assert 0.85 < z.std() < 1.15
    pearson = ((x - mean) ** 2 / variance).mean(axis=0)
    assert abs(np.median(pearson) - 1) < 0.03
    poisson = ((x - mean) ** 2 / mean).mean(axis=0)
    assert np.median(poisson) > 1.5  # so the test above could fail


def test_distribution_is_negative_binomial_to_the_last_zero(simulated):
    x, mean, theta = dense(simulated), expected(simulated), simulated.var["theta"].to_numpy()
    for count in range(4):
        p = stats.nbinom.pmf(count, theta, theta / (theta + mean))
        z = ((x == count).sum() - p.sum()) / np.sqrt((p * (1 - p)).sum())
        assert abs(z) < 4, f"count {count}: {z:.1f} standard errors off"


def test_large_theta_is_poisson():
    adata = datasets.simulate(2000, 100, theta=1e7)
    x, mean = dense(adata), expected(adata)
    assert abs(((x - mean) ** 2 / mean).mean() - 1) < 0.03


def test_depth_differs_by_batch_and_not_by_type_or_batch_effect(simulated):
    total, batch = dense(simulated).sum(axis=1), codes(simulated, "batch")
    for b, depth in enumerate([600, 1500]):
        assert total[batch == b].mean() == pytest.approx(depth, rel=0.06)
    per_type = np.exp(simulated.uns["truth"]["type_log_rate"]).sum(axis=1)
    np.testing.assert_allclose(per_type, 1050)
    factor = simulated.obs["depth_factor"].to_numpy()
    assert np.log(factor[batch == 0]).std() == pytest.approx(0.3, rel=0.1)
    assert factor.mean() == pytest.approx(1, abs=0.03)
    profile = np.exp(simulated.uns["truth"]["type_log_rate"]).mean(axis=0)
    np.testing.assert_allclose(np.exp(simulated.uns["truth"]["batch_log_effect"]) @ profile, 1050)


def test_batch_effects_are_recovered_by_regression(simulated):
    x, batch, cell_type = dense(simulated), codes(simulated, "batch"), codes(simulated, "cell_type")
    factor = simulated.obs["depth_factor"].to_numpy()
    per_type = []
    for t in range(3):
        rate = [
            x[(batch == b) & (cell_type == t)].sum(0) / factor[(batch == b) & (cell_type == t)].sum() for b in (0, 1)
        ]
        per_type.append(np.log(rate[1] + 1e-9) - np.log(rate[0] + 1e-9))
    effect = simulated.uns["truth"]["batch_log_effect"]
    true = effect[1] - effect[0]
    common = dense(simulated).mean(axis=0) > 1
    slope, _, r, _, _ = stats.linregress(true[common], np.mean(per_type, axis=0)[common])
    assert slope == pytest.approx(1, abs=0.05)
    assert r > 0.98
    assert true.std() == pytest.approx(0.3 * np.sqrt(2), rel=0.15)


@pytest.mark.parametrize("options", [{"batch_strength": 0}, {"n_batches": 1}])
def test_no_batch_effect(options):
    effect = datasets.simulate(100, 50, **options).uns["truth"]["batch_log_effect"]
    np.testing.assert_allclose(effect, 0, atol=1e-12)


def test_batch_strength_shows_in_pca():
    without, default = (datasets.simulate(batch_strength=s) for s in (0, 0.3))
    assert same_share(without, "batch") == pytest.approx(0.5, abs=0.03)
    assert same_share(default, "batch") > 0.85
    assert same_share(default, "cell_type") > 0.95  # chance 0.2


def test_markers_have_the_fold_in_their_own_type_only(simulated):
    log_rate, marker = simulated.uns["truth"]["type_log_rate"], simulated.var["marker_of"].cat.codes.to_numpy()
    assert np.bincount(marker + 1).tolist() == [210, 30, 30, 30]
    np.testing.assert_array_equal(simulated.var["is_marker"], marker >= 0)
    # Each type is scaled to one depth, so folds are relative to the genes that mark no type.
    log_rate = log_rate - log_rate[:, marker == -1].mean(axis=1, keepdims=True)
    for t in range(3):
        others = np.delete(log_rate, t, axis=0).mean(axis=0)
        np.testing.assert_allclose((log_rate[t] - others)[marker == t], np.log(4))
    np.testing.assert_allclose(np.ptp(log_rate[:, marker == -1], axis=0), 0, atol=1e-12)


def test_without_markers_types_are_alike():
    adata = datasets.simulate(400, 60, marker_share=0)
    assert not adata.var["is_marker"].any()
    np.testing.assert_allclose(np.ptp(adata.uns["truth"]["type_log_rate"], axis=0), 0, atol=1e-12)


def test_dropout_share():
    adata = datasets.simulate(2000, 200, dropout=0.3, theta=5, rng=2)
    x, mean = dense(adata), expected(adata)
    assert x.sum() / mean.sum() == pytest.approx(0.7, abs=0.01)
    theta = adata.var["theta"].to_numpy()
    kept = 1 - stats.nbinom.pmf(0, theta, theta / (theta + mean))
    assert (x > 0).sum() / kept.sum() == pytest.approx(0.7, abs=0.005)
    assert adata.uns["truth"]["dropout"] == 0.3
    assert_raw_counts(adata)


# simulate: composition


def table(adata):
    return np.array(
        [[((codes(adata, "batch") == b) & (codes(adata, "cell_type") == t)).sum() for t in range(3)] for b in range(2)]
    )


@pytest.mark.parametrize(
    ("composition", "n_of"),
    [
        (None, [[100, 100, 100], [100, 100, 100]]),
        ([[1, 1, 1], [1, 1, 0]], [[120, 120, 120], [120, 120, 0]]),
        ([[0, 1, 1], [4, 0, 0]], [[0, 100, 100], [400, 0, 0]]),
        ([[0.01, 0.49, 0], [0, 0, 0.5]], [[6, 294, 0], [0, 0, 300]]),
    ],
)
def test_composition(composition, n_of):
    adata = datasets.simulate(600, 60, n_types=3, composition=composition)
    np.testing.assert_allclose(table(adata), n_of, atol=1)
    assert (table(adata)[np.array(n_of) == 0] == 0).all()
    np.testing.assert_array_equal(adata.uns["truth"]["composition"], table(adata))


def test_cells_are_in_random_order():
    cell_type = codes(datasets.simulate(1000, 50), "cell_type")
    assert (np.diff(cell_type) == 0).mean() == pytest.approx(0.2, abs=0.06)


# simulate: no empty cell, no silent gene


def test_sparse_data_has_no_empty_cell_and_no_silent_gene():
    adata = datasets.simulate(40, 400, mean_depth=20, rng=3)
    poisson_zero = np.exp(-expected(adata))
    assert poisson_zero.prod(axis=0).sum() > 5  # silent genes are to be expected
    assert_raw_counts(adata)


def test_drawing_again_keeps_cells_and_genes_in_place():
    def draw(index):
        seen.append(index.tolist())
        return (np.array([[i, len(seen) > 1 or i % 2] for i in index]) * [[0, 1]]).astype(np.float32)

    seen = []
    rows = datasets._without_empty(draw, np.array([3, 4, 6]), "cell")
    assert seen == [[3, 4, 6], [4, 6]]
    np.testing.assert_array_equal(rows, [[0, 1]] * 3)


def test_shallow_cells_are_drawn_again():
    adata = datasets.simulate(500, 60, mean_depth=3, rng=3)
    assert np.exp(-expected(adata)).prod(axis=1).sum() > 20  # empty cells are to be expected
    assert_raw_counts(adata)


def test_hopeless_depth_is_an_error():
    with pytest.raises(
        ValueError, match=r"cell_\d+ has no count after 1000 draws: raise mean_depth .*or lower dropout"
    ):
        datasets.simulate(50, 20, mean_depth=1e-9)
    with pytest.raises(ValueError, match=r"gene_\d+ has no count after 1000 draws"):
        datasets.simulate(5, 3000, mean_depth=5)


def test_blocks_have_the_same_truth(monkeypatch):
    monkeypatch.setattr(datasets, "BLOCK", 1000)
    adata = datasets.simulate(500, 60, rng=4)
    assert_raw_counts(adata)
    mean, theta = expected(adata), adata.var["theta"].to_numpy()
    z = (dense(adata) - mean).sum(axis=1) / np.sqrt((mean + mean**2 / theta).sum(axis=1))
    assert 0.85 < z.std() < 1.15
    assert abs(z.mean()) < 0.2


# both: randomness, files, imports


@pytest.mark.parametrize("make", [lambda rng: datasets.simulate(200, 50, rng=rng), lambda rng: datasets.demo(rng=rng)])
def test_same_seed_same_data(make):
    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    first = make(7)
    assert_same(first, make(7))
    assert_same(first, make(np.int64(7)))
    by_generator = make(np.random.default_rng(7))
    assert (first.X != by_generator.X).nnz == 0
    assert by_generator.uns["truth"]["rng"] == "Generator(PCG64)"
    for other in (make(8), make(None)):
        assert other.shape != first.shape or (other.X != first.X).nnz > 0
    np.testing.assert_array_equal(before, np.random.get_state()[1])  # noqa: NPY002


@reads_file
@pytest.mark.parametrize("name", ["simulated", "blood"])
def test_written_file_is_the_same(name, request, tmp_path):
    adata = request.getfixturevalue(name)
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    assert (again.X != adata.X).nnz == 0
    assert again.obs_names.tolist() == adata.obs_names.tolist()
    assert again.var_names.tolist() == adata.var_names.tolist()
    for frame, other in [(adata.obs, again.obs), (adata.var, again.var)]:
        assert frame.columns.tolist() == other.columns.tolist()
        for key in frame:
            assert frame[key].astype(str).tolist() == other[key].astype(str).tolist()
    assert again.uns["truth"].keys() == adata.uns["truth"].keys()
    for key, value in adata.uns["truth"].items():
        assert isinstance(value, str | float | np.ndarray)
        np.testing.assert_array_equal(again.uns["truth"][key], value)
    assert again.uns.get("source") == adata.uns.get("source")


def test_import_does_not_load_scanpy():
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('datasets', {datasets.__file__!r})\n"
        "spec.loader.exec_module(importlib.util.module_from_spec(spec))\n"
        "assert not {'scanpy', 'anndata', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# demo


def test_demo_holds_raw_counts(blood):
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

    counts, labels, genes = datasets._pbmc_counts()
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
    counts, _, genes = datasets._pbmc_counts()
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
    assert np.std(np.log(efficiency / (1 - efficiency))) == pytest.approx(datasets.EFFICIENCY_SPREAD, rel=0.1)


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


def test_batch_effect_is_clear_and_biology_stays(blood):
    assert 0.5 < same_share(blood, "batch") < 0.75  # chance 0.33
    assert same_share(blood, "cell_type") > 0.65  # chance 0.19


def test_no_batch_effect_without_spread(monkeypatch):
    monkeypatch.setattr(datasets, "EFFICIENCY_SPREAD", 0)
    assert same_share(datasets.demo(), "batch") == pytest.approx(1 / 3, abs=0.03)


def test_genes_and_cells_without_counts_are_dropped(monkeypatch):
    counts, labels, genes = datasets._pbmc_counts()
    counts = counts.tolil()
    counts[:, 3] = 0
    counts[5] = 0
    monkeypatch.setattr(datasets, "_pbmc_counts", lambda: (counts.tocsr(), labels, genes))
    adata = datasets.demo(2)
    assert genes[3] not in adata.var_names
    assert labels.index[5] not in adata.obs_names
    assert adata.n_obs == 699
    assert adata.uns["truth"]["efficiency"].shape == (2, adata.n_vars)
    assert_raw_counts(adata)


# errors


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"n_cells": 0}, ValueError, "n_cells must be at least 1, found 0"),
        ({"n_genes": 10.0}, TypeError, r"n_genes must be a whole number, found 10\.0: pass an int"),
        ({"n_types": True}, TypeError, "n_types must be a whole number, found True"),
        ({"n_batches": -2}, ValueError, "n_batches must be at least 1, found -2"),
        ({"dropout": 1}, ValueError, "dropout must be finite, at least 0 and below 1; found 1"),
        ({"dropout": "0.1"}, TypeError, "dropout must be a number, found '0.1'"),
        ({"theta": 0}, ValueError, "theta must be finite, above 0; found 0"),
        ({"theta": float("inf")}, ValueError, "theta must be finite, above 0; found inf"),
        ({"batch_strength": -0.1}, ValueError, r"batch_strength must be finite, at least 0; found -0\.1"),
        ({"depth_spread": float("nan")}, ValueError, "depth_spread must be finite, at least 0; found nan"),
        ({"marker_fold": 0.5}, ValueError, r"marker_fold must be finite, at least 1; found 0\.5"),
        ({"marker_share": 1.5}, ValueError, r"marker_share must be finite, at least 0 and at most 1; found 1\.5"),
        ({"marker_share": 0.001}, ValueError, "leaves no marker gene for each of n_types=5: raise marker_share"),
        ({"mean_depth": [1, 2, 3]}, ValueError, r"mean_depth must have shape \(2,\) \(n_batches\), found \(3,\)"),
        ({"mean_depth": -5}, ValueError, r"mean_depth must hold finite numbers, none negative .*\[-5\.0, -5\.0\]"),
        ({"mean_depth": [0, 5]}, ValueError, "mean_depth is 0 for a batch"),
        ({"mean_depth": "deep"}, TypeError, "mean_depth must hold numbers, found 'deep'"),
        ({"composition": [[1, 1]]}, ValueError, r"composition must have shape \(2, 5\) \(n_batches x n_types\), found"),
        ({"composition": np.full((2, 5), np.nan)}, ValueError, "composition must hold finite numbers"),
        ({"composition": [[1] * 5, [0] * 5]}, ValueError, "batch_1 gets none of the 1000 cells: raise n_cells"),
        ({"composition": [[1, 1, 1, 1, 0]] * 2}, ValueError, "type_4 gets none of the 1000 cells: raise n_cells"),
        ({"n_cells": 3}, ValueError, r"type_\d gets none of the 3 cells"),
        ({"rng": -1}, ValueError, "rng must not be negative, found -1"),
        ({"rng": "0"}, TypeError, r"rng must be an int, a numpy\.random\.Generator or None, found '0'"),
        ({"rng": np.random.RandomState(0)}, TypeError, r"found RandomState.*numpy\.random\.default_rng\(0\)"),
    ],
)
def test_simulate_refuses(options, error, text):
    with pytest.raises(error, match=text):
        datasets.simulate(**options)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"n_batches": 0}, ValueError, "n_batches must be from 1 to 26, found 0"),
        ({"n_batches": 27}, ValueError, "n_batches must be from 1 to 26, found 27"),
        ({"n_batches": "3"}, TypeError, "n_batches must be a whole number, found '3'"),
        ({"rng": True}, TypeError, "rng must be an int, .* found True"),
    ],
)
def test_demo_refuses(options, error, text):
    with pytest.raises(error, match=text):
        datasets.demo(**options)
