"""What the options of tl.cvae do to its scores on real data sets: a CSV with every score, and a table.

    python benchmarks/options.py run DATA.h5ad ... --baselines FOLDER [--seeds 2] [--jobs 2]
    python benchmarks/options.py show

DATA and FOLDER as for quality.py. Fits run in processes of one thread each. Rows that the CSV has already are kept, so
that a run which was stopped goes on. What needs data of its own has a benchmark of its own: labels.py, protein.py,
priors.py (components against known types), removal.py (dials over their range), spatial.py.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
TABLE = RESULTS / "options.csv"
BAD = {"learning_rate": 0.06, "beta": 5.0}  # ten times the defaults
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "prior='conditional'": {"prior": "conditional"},
    "prior='mog'": {"prior": "mog"},
    "prior='vamp'": {"prior": "vamp"},
    "adversary=3": {"adversary": 3.0},
    "mmd=10": {"mmd": 10.0},
    "decoder_hidden=()": {"decoder_hidden": ()},
    "hidden=(128, 128)": {"hidden": (128, 128)},
    "likelihood='zinb'": {"likelihood": "zinb"},
    "target_kl=20": {"target_kl": 20.0},
    "beta=5, learning_rate=0.06": BAD,
    "beta=5, learning_rate=0.06, target_kl=20": {**BAD, "target_kl": 20.0},
}


def job(task: tuple[Path, Path, str, int]) -> dict[str, object]:
    import numpy as np
    import scanpy as sc
    import torch

    import sc_vaenb
    from sc_vaenb.metrics import score

    path, baselines, option, seed = task
    torch.set_num_threads(1)
    sc.settings.verbosity = 0
    adata = sc.read_h5ad(path)
    sc_vaenb.pp.prepare(adata, batch_key="batch")
    start = time.perf_counter()
    sc_vaenb.tl.cvae(adata, "batch", rng=seed, **OPTIONS[option])
    seconds = time.perf_counter() - start
    labels, batch = (adata.obs[key].to_numpy(str) for key in ("cell_type", "batch"))
    values = score(adata.obsm["X_vae"], labels, batch, reference=np.load(baselines / f"{path.stem}.npz")["pca"])
    about = {"data": path.stem, "option": option, "seed": seed, "seconds_one_thread": seconds}
    return {**about, "setbacks": adata.uns["vae"]["verdict"]["setbacks"], **values}


def run(paths: list[Path], baselines: Path, seeds: int, jobs: int) -> None:
    import pandas as pd
    from joblib import Parallel, delayed

    RESULTS.mkdir(exist_ok=True)
    rows = pd.read_csv(TABLE).to_dict("records") if TABLE.exists() else []
    there = {(row["data"], row["option"], row["seed"]) for row in rows}
    tasks = [(path, baselines, option, seed) for seed in range(seeds) for path in paths for option in OPTIONS]
    todo = [task for task in tasks if (task[0].stem, *task[2:]) not in there]
    for row in Parallel(n_jobs=jobs, verbose=5, return_as="generator")(delayed(job)(task) for task in todo):
        rows.append(row)
        pd.DataFrame(rows).to_csv(TABLE, index=False, float_format="%.5f")


def show() -> None:
    import pandas as pd

    table = pd.read_csv(TABLE)
    data = list(table["data"].unique())
    seconds = table.groupby(["option", "data"])["seconds_one_thread"].median().unstack()
    slower = (seconds / seconds.loc["defaults"]).median(axis=1)
    for score in ("total", "bio", "batch"):
        print(f"\n| {score} | " + " | ".join([*data, "mean", "time"]) + " |\n|---|" + "---|" * (len(data) + 2))
        grouped = table.groupby(["option", "data"])[score]
        mean, low, high = (part.unstack() for part in (grouped.mean(), grouped.min(), grouped.max()))
        for option in [o for o in OPTIONS if o in mean.index]:
            found = zip(mean.loc[option, data], low.loc[option, data], high.loc[option, data], strict=True)
            cells = [f"{m:.3f} ({lo:.3f}-{hi:.3f})" for m, lo, hi in found]
            print(
                f"| {option} | "
                + " | ".join([*cells, f"{mean.loc[option].mean():.3f}", f"{slower[option]:.2f}"])
                + " |"
            )


if __name__ == "__main__":
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("data", nargs="+", type=Path)
    running.add_argument("--baselines", type=Path, required=True)
    running.add_argument("--seeds", type=int, default=2)
    running.add_argument("--jobs", type=int, default=2)
    commands.add_parser("show")
    options = parser.parse_args()
    if options.command == "run":
        run(options.data, options.baselines, options.seeds, options.jobs)
    show()
