import pytest

from sc_vaenb.fit.schedule import default_steps, default_weight_decay, one_cycle, warm_up


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


def test_a_million_cells_take_no_more_steps_than_ten_thousand():
    steps = [default_steps(n, 2000, 1000) for n in (10, 500, 10_000, 1_000_000)]
    assert steps == sorted(steps)
    assert steps[-1] == steps[-2]


def test_four_times_the_depth_takes_twice_the_steps_beyond_the_passes():
    passes = default_steps(800, 2000, 0)
    assert passes == 28 * 800 // 128
    more = [default_steps(800, 2000, depth) - passes for depth in (1000, 4000)]
    assert more[1] == pytest.approx(2 * more[0], abs=1)
    assert default_steps(10, 2000, 1) == 40
    assert default_steps(100, 2000, 1e9) == 700


def test_few_genes_take_more_steps_to_the_same_depth_of_a_cell():
    assert default_steps(800, 2000, 1000) == default_steps(800, 500, 1000)
    assert default_steps(800, 100, 1000) == default_steps(800, 500, 5000)


def test_weights_remember_the_same_number_of_passes_over_many_cells():
    assert default_weight_decay(20_000) * 20_000 == pytest.approx(default_weight_decay(1_000_000) * 1_000_000)
    assert default_weight_decay(100) == 2.0
