"""What benchmarks/truth/convergence.py counts as right."""

import runpy
from pathlib import Path

import numpy as np
import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "truth" / "convergence.py"


@pytest.fixture(scope="module")
def cases():
    return runpy.run_path(str(FILE))


@pytest.mark.parametrize(
    ("status", "message", "truth", "expected"),
    [
        ("converged", "", "", True),
        ("converged", "", "longer", False),
        ("converged", "", "pca", False),
        ("converged", "", "shorter", False),
        ("converged", "a shorter one may be better", "shorter", True),
        ("still_improving", "", "longer", True),
        ("still_improving", "", "pca", False),
        ("overfitted", "", "shorter", True),
        ("overfitted", "", "longer", False),
        ("worse_than_pca", "", "pca", True),
        ("not_judged", "", "longer", True),
    ],
)
def test_what_is_right(cases, status, message, truth, expected):
    facts = {name: name == truth for name in ("longer", "shorter", "pca")}
    assert cases["right"](status, message, **facts) is expected


def test_better_is_beyond_the_margin_and_chance(cases):
    own = np.full((2, 100), 0.5)
    noisy = own + np.random.default_rng(0).normal(0.03, 0.3, (2, 100))
    assert cases["better"]([own - 0.1, own + 0.03], own)
    assert not cases["better"]([own + 0.01], own)
    assert not cases["better"]([noisy], own)
    assert not cases["better"]([], own)
