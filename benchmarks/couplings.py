"""Couplings of successive time points by moscot, on three embeddings of simulated time courses. `docs/time.md`.

    python benchmarks/couplings.py [--seeds 1] [--write FILE.csv]   # where moscot is installed

The designs are those of `time_course.py`. `type`: share of the mass that goes to the own type. `place`: within a type,
Spearman's correlation of the true place of a cell on its path with the mean place of what it becomes. `capture`: by how
much the captures of a time point differ in where their cells of a type go (total variation distance over the captures
of the next time point, between the cells of one capture and those of the others; 0: no difference, but few cells differ
by chance). Means over successive time points and types.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
import scanpy as sc
from moscot.problems.time import TemporalProblem
from numpy.typing import NDArray
from scipy.stats import spearmanr
from time_course import CPU, DESIGNS, simulate

import sc_vaenb

MIN_CELLS = 5  # of a type in a capture


def evaluate(mass: NDArray, before: pd.DataFrame, after: pd.DataFrame) -> dict[str, list[float]]:
    kind, capture, place = (before[name].to_numpy() for name in ("cell_type", "batch", "place"))
    becomes = mass / mass.sum(1, keepdims=True)
    own_type = mass[kind[:, None] == after["cell_type"].to_numpy()].sum() / mass.sum()
    later_place = becomes @ after["place"].to_numpy()
    goes_to = becomes @ pd.get_dummies(after["batch"].astype(str)).to_numpy(float)
    scores: dict[str, list[float]] = {"type": [own_type], "place": [], "capture": []}
    for name in np.unique(kind):
        cells = kind == name
        if cells.sum() >= 2 * MIN_CELLS:
            scores["place"].append(spearmanr(place[cells], later_place[cells]).statistic)
        for one in np.unique(capture):
            own, others = cells & (capture == one), cells & (capture != one)
            if min(own.sum(), others.sum()) >= MIN_CELLS and goes_to.shape[1] > 1:
                scores["capture"].append(0.5 * np.abs(goes_to[own].mean(0) - goes_to[others].mean(0)).sum())
    return scores


def rows(name: str, seed: int) -> list[dict[str, object]]:
    adata = simulate(1000 * (list(DESIGNS).index(name) + 1) + seed, **DESIGNS[name])
    adata.obs["time"] = adata.obs["time"].astype(float).astype("category")
    sc_vaenb.pp.prepare(adata, log1p=True)
    sc.pp.pca(adata, random_state=seed)
    sc_vaenb.tl.vae(adata, rng=seed, key_added="one", **CPU)
    sc_vaenb.tl.cvae(adata, "batch", time_key="time", rng=seed, key_added="timed", **CPU)
    found = []
    for method, key in {"PCA": "X_pca", "tl.vae": "X_one", "tl.cvae, time_key": "X_timed"}.items():
        problem = TemporalProblem(adata).prepare(time_key="time", joint_attr=key)
        problem = problem.solve(epsilon=1e-3, tau_a=0.95)
        scores: dict[str, list[float]] = {"type": [], "place": [], "capture": []}
        for (start, end), solution in problem.solutions.items():
            before, after = (adata.obs[adata.obs["time"] == time] for time in (start, end))
            for score, values in evaluate(np.asarray(solution.transport_matrix), before, after).items():
                scores[score] += values
        means = {score: round(float(np.mean(values)), 4) for score, values in scores.items()}
        found.append({"data": name, "seed": seed, "method": method, **means})
        print(found[-1], flush=True)
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    sc.settings.verbosity = 0
    table = pd.DataFrame([row for name in DESIGNS for seed in range(options.seeds) for row in rows(name, seed)])
    if options.write:
        table.to_csv(options.write, index=False)
    print(table.drop(columns="seed").groupby(["data", "method"], sort=False).mean().round(3).to_string())
