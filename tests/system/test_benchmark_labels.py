"""The benchmark of labels runs on a small file and writes the rows that it promises."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pandas as pd
import pytest


@pytest.mark.slow
def test_labels(simulated, tmp_path):
    spec = spec_from_file_location("labels", Path(__file__).parents[2] / "benchmarks" / "labels.py")
    benchmark = module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    simulated.write_h5ad(tmp_path / "cells.h5ad")
    benchmark.job(tmp_path / "cells.h5ad", 0, [0.5], tmp_path / "labels.csv", n_steps=5)
    table = pd.read_csv(tmp_path / "labels.csv")
    found, lacking = table[table["without"].isna()], table[table["without"].notna()]
    assert set(found["method"]) == {
        "tl.cvae",
        "neighbours, plain",
        "regression, plain",
        "neighbours",
        "regression",
    }
    assert found["accuracy"].between(0.5, 1).all()  # chance 0.33
    assert found.set_index("method").loc[["tl.cvae", "neighbours, plain"], "total"].between(0, 1).all()
    assert set(lacking["without"]) <= set(simulated.obs["cell_type"])
    assert np.isfinite(
        lacking.set_index("method").loc["tl.cvae", ["promised", "told_apart", "together"]].astype(float)
    ).all()
