import numpy as np
import pytest
from scipy import stats

from sc_vaenb import datasets
from sc_vaenb.datasets import _simulate


def dense(adata):
    return adata.X.toarray().astype(np.float64)


def codes(adata, key):
    return adata.obs[key].cat.codes.to_numpy()


def expected(adata):
    """The mean of every count, from the truth."""
    truth = adata.uns["truth"]
    log_rate = truth["type_log_rate"][codes(adata, "cell_type")] + truth["batch_log_effect"][codes(adata, "batch")]
    return adata.obs["depth_factor"].to_numpy()[:, None] * np.exp(log_rate)


# the counts are what the truth says


def test_simulated_counts_are_raw(simulated, assert_raw_counts):
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


@pytest.mark.parametrize(("name", "value"), [("mean_depth", 1e12), ("batch_strength", 10)])
def test_counts_that_are_no_exact_float32_are_refused(name, value):
    with pytest.raises(ValueError, match="float32 holds integers up to 16,777,216"):
        datasets.simulate(300, 20, **{"mean_depth": 1e6, "theta": 1e-3, name: value})


@pytest.mark.parametrize(("name", "value"), [("theta", 1e-320), ("depth_spread", 1e3), ("batch_strength", 1e3)])
def test_parameters_beyond_the_range_of_floats_are_refused(name, value):
    with pytest.raises(ValueError, match=name):
        datasets.simulate(50, 20, **{name: value})


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


def test_batch_strength_shows_in_pca(same_share):
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


def test_dropout_share(assert_raw_counts):
    adata = datasets.simulate(2000, 200, dropout=0.3, theta=5, rng=2)
    x, mean = dense(adata), expected(adata)
    assert x.sum() / mean.sum() == pytest.approx(0.7, abs=0.01)
    theta = adata.var["theta"].to_numpy()
    kept = 1 - stats.nbinom.pmf(0, theta, theta / (theta + mean))
    assert (x > 0).sum() / kept.sum() == pytest.approx(0.7, abs=0.005)
    assert adata.uns["truth"]["dropout"] == 0.3
    assert_raw_counts(adata)


# composition


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


# no empty cell, no silent gene


def test_sparse_data_has_no_empty_cell_and_no_silent_gene(assert_raw_counts):
    adata = datasets.simulate(40, 400, mean_depth=20, rng=3)
    poisson_zero = np.exp(-expected(adata))
    assert poisson_zero.prod(axis=0).sum() > 5  # silent genes are to be expected
    assert_raw_counts(adata)


def test_drawing_again_keeps_cells_and_genes_in_place():
    def draw(index):
        seen.append(index.tolist())
        return (np.array([[i, len(seen) > 1 or i % 2] for i in index]) * [[0, 1]]).astype(np.float32)

    seen = []
    rows = _simulate._without_empty(draw, np.array([3, 4, 6]), "cell")
    assert seen == [[3, 4, 6], [4, 6]]
    np.testing.assert_array_equal(rows, [[0, 1]] * 3)


def test_shallow_cells_are_drawn_again(assert_raw_counts):
    adata = datasets.simulate(500, 60, mean_depth=3, rng=3)
    assert np.exp(-expected(adata)).prod(axis=1).sum() > 20  # empty cells are to be expected
    assert_raw_counts(adata)


@pytest.mark.slow
def test_hopeless_depth_is_an_error():
    with pytest.raises(
        ValueError, match=r"cell_\d+ has no count after 1000 draws: raise mean_depth .*or lower dropout"
    ):
        datasets.simulate(50, 20, mean_depth=1e-9)
    with pytest.raises(ValueError, match=r"gene_\d+ has no count after 1000 draws"):
        datasets.simulate(5, 3000, mean_depth=5)


def test_blocks_have_the_same_truth(monkeypatch, assert_raw_counts):
    monkeypatch.setattr(_simulate, "BLOCK", 1000)
    adata = datasets.simulate(500, 60, rng=4)
    assert_raw_counts(adata)
    mean, theta = expected(adata), adata.var["theta"].to_numpy()
    z = (dense(adata) - mean).sum(axis=1) / np.sqrt((mean + mean**2 / theta).sum(axis=1))
    assert 0.85 < z.std() < 1.15
    assert abs(z.mean()) < 0.2


# errors


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"n_cells": 0}, ValueError, "n_cells=0 is not possible. Give a whole number at least 1"),
        ({"n_genes": 10.0}, TypeError, r"n_genes=10\.0 is not possible\. Give a whole number"),
        ({"n_types": True}, TypeError, "n_types=True is not possible. Give a whole number"),
        ({"n_batches": -2}, ValueError, "n_batches=-2 is not possible"),
        ({"dropout": 1}, ValueError, "dropout=1 is not possible. Give a number at least 0 and below 1"),
        ({"dropout": "0.1"}, TypeError, "dropout='0.1' is not possible. Give a number"),
        ({"theta": 0}, ValueError, "theta=0 is not possible. Give a number at least 0.001"),
        ({"theta": float("inf")}, ValueError, "theta=inf is not possible. Give a number at least 0.001"),
        ({"batch_strength": -0.1}, ValueError, r"batch_strength=-0\.1 is not possible\. Give a number at least 0"),
        ({"depth_spread": float("nan")}, ValueError, "depth_spread=nan is not possible. Give a number at least 0"),
        ({"marker_fold": 0.5}, ValueError, r"marker_fold=0\.5 is not possible\. Give a number at least 1"),
        (
            {"marker_share": 1.5},
            ValueError,
            r"marker_share=1\.5 is not possible\. Give a number at least 0 and at most 1",
        ),
        ({"marker_share": 0.001}, ValueError, "leaves no marker gene for each of n_types=5: raise marker_share"),
        ({"mean_depth": [1, 2, 3]}, ValueError, r"mean_depth must have shape \(2,\) \(n_batches\), found \(3,\)"),
        (
            {"mean_depth": -5},
            ValueError,
            r"mean_depth=-5 .* Give a number above 0 or a sequence of numbers",
        ),
        ({"mean_depth": [0, 5]}, ValueError, r"mean_depth\[0\]=0 is not possible\. Give a number above 0"),
        (
            {"mean_depth": "deep"},
            TypeError,
            "mean_depth='deep' .* Give a number above 0 or a sequence",
        ),
        ({"composition": [[1, 1]]}, ValueError, r"composition must have shape \(2, 5\) \(n_batches x n_types\), found"),
        ({"composition": np.full((2, 5), np.nan)}, ValueError, "composition must hold finite numbers"),
        ({"composition": [[1] * 5, [0] * 5]}, ValueError, "batch_1 gets none of the 1000 cells: raise n_cells"),
        ({"composition": [[1, 1, 1, 1, 0]] * 2}, ValueError, "type_4 gets none of the 1000 cells: raise n_cells"),
        ({"n_cells": 3}, ValueError, r"type_\d gets none of the 3 cells"),
        ({"rng": -1}, ValueError, "rng=-1 is not possible. Give a whole number at least 0"),
        (
            {"rng": "0"},
            TypeError,
            r"rng='0' .* Give a whole number .*, a numpy\.random\.Generator or None",
        ),
        ({"rng": np.random.RandomState(0)}, TypeError, r"rng=RandomState.* is not possible\. Give a whole number"),
    ],
)
def test_simulate_refuses(options, error, text):
    with pytest.raises(error, match=text):
        datasets.simulate(**options)


def test_minus_zero_is_zero():
    """numpy refuses a spread of -0.0."""
    one, other = (datasets.simulate(60, 40, n_types=2, depth_spread=spread, rng=0) for spread in (0.0, -0.0))
    assert (one.X != other.X).sum() == 0
