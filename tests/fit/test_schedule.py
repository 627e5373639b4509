import pytest

from sc_vaenb.fit.schedule import one_cycle, warm_up


@pytest.mark.parametrize("n", [1, 7, 1000])
def test_the_learning_rate_rises_once_to_its_peak_and_falls_to_almost_nothing(n):
    rates = [one_cycle(step, n) for step in range(n)]
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[-1] == pytest.approx(1e-3)
    if n == 1000:
        assert max(rates) == pytest.approx(1, abs=1e-4)
        assert top == pytest.approx(150, abs=1)


def test_the_weight_of_the_kl_reaches_its_end_within_its_share_of_the_steps():
    weights = [warm_up(step, 100, 0.3) for step in range(100)]
    assert weights[0] == pytest.approx(1 / 30)
    assert weights[28] < 1
    assert weights[29:] == [1.0] * 71
    assert warm_up(0, 100, 0.0) == 1.0
