"""The cases of benchmarks/truth/verdict.py, of which the quickest are asked here."""

import runpy
from pathlib import Path

import pytest

from sc_vaenb._scanpy import override

pytestmark = pytest.mark.slow

FILE = Path(__file__).parents[2] / "benchmarks" / "truth" / "verdict.py"


@pytest.fixture(scope="module")
def cases():
    return runpy.run_path(str(FILE))


def test_composition_alone_is_no_batch_effect(cases):
    with override(verbosity="error"):
        said = cases["composition"](0)
    assert [statement for statement in said if not statement["right"]] == []
    assert len(said) == 4
    for statement in said:
        assert list(statement) == ["question", "design", "seed", "asked", "expected", "answered", "right"]


def test_a_contradiction_would_be_seen(cases):
    row = {"subject": "CVAE", "answer": "CVAE", "confidence": "high", "evidence": "", "sentence": "Best: CVAE."}
    pd = cases["pd"]
    findings = pd.DataFrame([
        {"question": cases["BEST"], **row},
        {"question": cases["NEEDED"], **row, "subject": "", "answer": "no", "sentence": "Separation is nan."},
        {"question": cases["HARM"], **row, "answer": "yes"},
    ])  # fmt: skip
    found = cases["consistent"](findings, "made", 0)
    assert not found["right"]
    assert found["answered"] == ("nan, CVAE is best and does harm, nothing to correct, and yet a correction is best")
