import numpy as np
import pytest

from sc_vaenb.metrics import isolated_labels, silhouette_samples


def test_agrees_with_scib_metrics(case_and_stored):
    case, stored = case_and_stored
    found = isolated_labels(case["embedding"], case["labels"], case["batch"])
    np.testing.assert_allclose(found, stored["scib_metrics"]["isolated_labels"], atol=1e-10)


def test_by_hand():
    x = np.array([[0.0], [1.0], [10.0], [12.0], [30.0], [31.0]])
    labels, batch = list("ppqqrr"), list("xyxyxx")
    widths = silhouette_samples(x, labels)
    only_r = (widths[4:].mean() + 1) / 2
    assert isolated_labels(x, labels, batch) == pytest.approx(only_r)
    assert isolated_labels(x, labels, batch, widths=widths) == pytest.approx(only_r)
    with pytest.raises(ValueError, match="widths has 1 entries"):
        isolated_labels(x, labels, batch, widths=np.array(0.5))
    assert isolated_labels(x, labels, batch, max_batches=2) == pytest.approx((widths.mean() + 1) / 2)
    assert np.isnan(isolated_labels(x[:4], labels[:4], batch[:4], max_batches=1))
