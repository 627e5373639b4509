"""Killed at any moment, a fit goes on to the same bits, and no file is ever half of one. See `victim.py`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]


def killed(what, folder):
    script = Path(__file__).with_name("victim.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, script, what, folder], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_fit_that_is_killed_goes_on_to_the_same_bits(tmp_path):
    seen = killed("fits", tmp_path)
    at_each_call = seen.pop("at each call")
    assert set(seen) == {"plain", "buffers and dropout", "patience"}
    for case in seen.values():
        assert len(case["kills"]) >= 8
        assert case["lost"] == 0  # what was once written is never gone
        assert case["finished"]
        assert all(case["finished"])  # the same as without a break
    assert any(step > 0 for case in seen.values() for step in case["kills"])
    # One state takes five calls: write, flush, rename, flush the name, remove the one before the last.
    assert at_each_call["same"]
    steps = [step for step, _ in at_each_call["deaths"]]
    assert steps == sorted(steps)
    assert steps[:3] == [0, 0, 0]
    assert [half for _, half in at_each_call["deaths"][:4]] == [True, True, True, False]
    assert [name[:14] for name in at_each_call["left"]] == ["step_000000057", "step_000000060"]


def test_a_file_that_is_being_replaced_is_the_old_one_or_the_new_one(tmp_path):
    seen = killed("files", tmp_path)
    assert seen.keys() == {"a.h5ad", "a.zarr"}
    for file in seen.values():
        assert file["kills"] == 8
        assert file["halves"] > 0  # some did hit a write
