"""What is said of looks whose meaning is known, and when they are taken."""

import numpy as np
import pytest

from sc_vaenb.fit.convergence import fit_length, judge, scoring_steps

NAN, UNLEARNED = float("nan"), {"unlearned": True}
CASES = {
    "settled": ([0.7, 0.95, 1.0, 1.0, 1.01], 500, 6e-3, {}, "converged", "The fit has converged. Neighbours"),
    "few steps, low": ([NAN, NAN, 0.4, 0.5, 0.6], 30, 6e-3, {}, "still_improving", "raise n_steps"),
    "few steps, steep": ([NAN, NAN, 0.5, 0.6, 0.9], 30, 6e-3, {}, "still_improving", "30 steps are fewer than the 500"),
    "few steps, fine": ([NAN, NAN, 1.0, 1.1, 1.2], 30, 6e-3, {}, "not_judged", "30 steps are fewer than the 500"),
    "low rate, low": ([0.2, 0.2, 0.3, 0.4, 0.5], 500, 1e-4, {}, "still_improving", "raise learning_rate"),
    "low rate, fine": (
        [0.2, 0.5, 0.9, 0.9, 0.95],
        500,
        1e-4,
        {},
        "not_judged",
        "0.0001 is lower than the default",
    ),
    "high rate, fine": (
        [0.9, 0.9, 0.9, 0.9, 0.9],
        500,
        6e-2,
        {},
        "not_judged",
        "0.06 is higher than the default 0.006",
    ),
    "high rate, low": ([0.6, 0.6, 0.5, 0.5, 0.6], 500, 6e-2, {}, "worse_than_pca", "0.06 is higher than the default"),
    "high rate, fell": (
        [1.0, 0.9, 0.3, 0.3, 0.5],
        500,
        6e-2,
        {},
        "overfitted",
        "became worse during the fit: the",
    ),
    "by heart": ([1.1, 1.0, 0.8, 0.6, 0.5], 500, 6e-3, {}, "overfitted", "n_steps=150, or use PCA (sc.pp.pca)"),
    "by heart, not below PCA": ([1.1, 1.0, 0.9, 0.9, 0.85], 500, 6e-3, {}, "overfitted", "Fit again with n_steps=150."),
    "fell a little": ([1.0, 0.9, 0.9, 0.9, 0.88], 500, 6e-3, {}, "converged", "88%"),
    "fell, and held-out cells too": (
        [1.0, 0.9, 0.9, 0.9, 0.88],
        500,
        6e-3,
        {"unlearned": True},
        "overfitted",
        "overfits these",
    ),
    "was better": ([1.5, 1.4, 1.3, 1.2, 1.2], 500, 6e-3, {}, "converged", "a shorter one (n_steps=150) may be better"),
    "rises to the end": (
        [0.2, 0.3, 0.4, 0.5, 0.6],
        500,
        6e-3,
        {},
        "still_improving",
        "it was 45% at the two scores before",
    ),
    "flat and low": ([0.5, 0.5, 0.5, 0.5, 0.5], 500, 6e-3, {}, "worse_than_pca", "a longer fit will not mend it"),
    "collapsed": ([0.9, 0.9, 0.9, 0.9, 0.9], 500, 6e-3, {"collapsed": True}, "worse_than_pca", "worse than PCA."),
    "nothing looked at": ([NAN] * 5, 500, 6e-3, {}, "not_judged", "no batch has the 12 cells"),
}


@pytest.mark.parametrize(("explained", "n_steps", "rate", "facts", "status", "text"), CASES.values(), ids=CASES)
def test_what_is_said_of_a_fit_of_500_steps_by_default(explained, n_steps, rate, facts, status, text):
    steps = np.round(n_steps * np.array([0.22, 0.34, 0.46, 0.65, 1.0])).astype(np.int64)
    said = judge(steps, np.array(explained), n_steps, rate, 500, 3520, **facts)
    assert said[0] == status
    assert text in said[1]


def test_the_length_of_a_fit_is_its_cumulative_learning_rate():
    assert fit_length(500, 6e-3, 500) == pytest.approx(1)
    assert fit_length(50, 6e-3, 500) == fit_length(500, 6e-4, 500) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("length", "n_epochs", "expected"),
    [(1.0, 50, [139, 229, 499]), (1.0, 5, [139, 229]), (4.0, 50, [59, 99, 139, 229])],
)
def test_looks_are_at_shares_of_the_cumulative_learning_rate(length, n_epochs, expected):
    assert sorted(scoring_steps(list(range(9, 500, 10)), 500, length, n_epochs)) == expected
