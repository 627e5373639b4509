import numpy as np
import pytest

from sc_vaenb.metrics import pcr_comparison, variance_explained


def test_agrees_with_scib_metrics(case_and_stored):
    case, stored = case_and_stored
    found = pcr_comparison(case["embedding"], case["reference"], case["batch"])
    np.testing.assert_allclose(found, stored["scib_metrics"]["pcr_comparison"], atol=1e-10)


def test_equals_regression_of_each_principal_component(cases):
    x, batch = cases["moderate"]["reference"], cases["moderate"]["batch"]
    u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    design = (batch[:, None] == np.unique(batch)).astype(float)
    scores = u * s
    fitted = design @ np.linalg.lstsq(design, scores, rcond=None)[0]
    r2 = 1 - np.square(scores - fitted).sum(axis=0) / np.square(scores).sum(axis=0)
    assert variance_explained(x, batch) == pytest.approx((r2 * s**2).sum() / (s**2).sum())


def test_by_hand():
    assert variance_explained([[0.0], [2.0], [10.0], [12.0]], list("xxyy")) == pytest.approx(100 / 104)
    assert variance_explained(np.zeros((4, 2)), list("xxyy")) == 0


def test_limits():
    before = np.array([[0.0], [2.0], [10.0], [12.0]])
    batch = list("xxyy")
    assert pcr_comparison(before * 3 + 1, before, batch) == pytest.approx(0)
    assert pcr_comparison([[0.0], [2.0], [0.0], [2.0]], before, batch) == 1
    assert pcr_comparison([[0.0], [0.1], [10.0], [10.1]], before, batch) == 0  # more than before
    assert np.isnan(pcr_comparison(before, [[0.0], [2.0], [0.0], [2.0]], batch))


def test_errors():
    x = np.eye(4)
    with pytest.raises(ValueError, match="reference has 3 cells but embedding has 4: pass the unintegrated embedding"):
        pcr_comparison(x, x[:3], list("xxyy"))
    with pytest.raises(ValueError, match="reference holds 1 non-finite values"):
        pcr_comparison(x, np.where(np.arange(16).reshape(4, 4) == 5, np.nan, x), list("xxyy"))
