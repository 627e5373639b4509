"""Scores of tl.vae, tl.cvae and other methods on real data sets: a CSV with every score, tables and a figure.

    python benchmarks/quality.py run DATA.h5ad ... --baselines FOLDER [--seeds 3] [--jobs 2]
    python benchmarks/quality.py show

DATA holds raw counts in X, obs["batch"] and obs["cell_type"]. FOLDER/NAME.npz holds embeddings of other methods for the
cells of NAME.h5ad in the same order ("pca", "harmony", "scvi", ...). Two readings: `total_scib` (scIB's metrics) and
`total` (without silhouettes, with the geometry of types and the accuracy of labels across batches; what `tl.compare`
ranks by). Fits run in processes of one thread each, so the seconds are not those of a user's machine: see speed.py.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
TABLE = RESULTS / "quality.csv"
PEERS = {
    "pca": "PCA",
    "harmony": "Harmony",
    "harmony2": "Harmony2",
    "scvi": "scVI",
    "sysvi": "SysVI",
    "scanorama": "Scanorama",
    "concord": "CONCORD",
}
VARIANTS = {
    "tl.vae": None,
    "tl.cvae, align=False": {"align": False},
    "tl.cvae, overlap='all'": {"overlap": "all"},
    "tl.cvae": {},
}
PARTS = ["bio", "batch", "nmi", "ari", "clisi", "geometry", "cross_batch_accuracy", "ilisi", "kbet"]
OVERCORRECTION = "mouse_embryo_4libs"  # its biology is confounded with batch: kept out of the means


def job(task: tuple[Path, Path, str, int]) -> dict[str, object]:
    import numpy as np
    import scanpy as sc
    import torch

    import sc_vaenb
    from sc_vaenb.metrics import score

    path, baselines, method, seed = task
    torch.set_num_threads(1)
    sc.settings.verbosity = 0
    adata = sc.read_h5ad(path)
    stored = np.load(baselines / f"{path.stem}.npz")
    start = time.perf_counter()
    if method in VARIANTS:
        sc_vaenb.pp.prepare(adata, batch_key="batch")
        if VARIANTS[method] is None:
            sc_vaenb.tl.vae(adata, rng=seed)
        else:
            sc_vaenb.tl.cvae(adata, "batch", rng=seed, **VARIANTS[method])
        embedding = adata.obsm["X_vae"]
    else:
        embedding = stored[next(key for key, name in PEERS.items() if name == method)]
    seconds = time.perf_counter() - start
    labels, batch = (adata.obs[key].to_numpy(str) for key in ("cell_type", "batch"))
    values = score(embedding, labels, batch, reference=stored["pca"])
    return {"data": path.stem, "method": method, "seed": seed, "seconds_one_thread": seconds, **values}


def run(paths: list[Path], baselines: Path, first: int, seeds: int, jobs: int) -> None:
    import numpy as np
    import pandas as pd
    from joblib import Parallel, delayed

    tasks = []
    for path in paths:
        stored = set(np.load(baselines / f"{path.stem}.npz").files)
        tasks += [(path, baselines, name, 0) for key, name in PEERS.items() if key in stored]
        tasks += [(path, baselines, method, seed) for method in VARIANTS for seed in range(first, first + seeds)]
    rows = Parallel(n_jobs=jobs, verbose=5)(delayed(job)(task) for task in tasks)
    RESULTS.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(TABLE, index=False, float_format="%.5f")


def show() -> None:
    import matplotlib.pyplot as plt
    import pandas as pd

    table = pd.read_csv(TABLE)
    methods = [m for m in [*PEERS.values(), *VARIANTS] if m in set(table["method"])]
    rated = [d for d in table["data"].unique() if d != OVERCORRECTION]
    for reading in ("total", "total_scib"):
        grouped = table.groupby(["method", "data"])[reading]
        mean, spread = grouped.mean().unstack().loc[methods], grouped.std().unstack().loc[methods]
        mean["mean"] = mean[rated].mean(axis=1)
        print(f"\n| {reading} | " + " | ".join([*rated, "mean"]) + " |\n|---|" + "---|" * (len(rated) + 1))
        for method in methods:
            cells = [
                f"{mean.loc[method, d]:.3f}" + (f" ± {spread.loc[method, d]:.3f}" if spread.loc[method, d] > 0 else "")
                for d in rated
            ]
            print(f"| {method} | " + " | ".join([*cells, f"{mean.loc[method, 'mean']:.3f}"]) + " |")
    print("\n| mean | " + " | ".join(PARTS) + " |\n|---|" + "---|" * len(PARTS))
    parts = table[table["data"].isin(rated)].groupby(["method", "data"])[PARTS].mean().groupby("method").mean()
    for method in methods:
        print(f"| {method} | " + " | ".join(f"{parts.loc[method, part]:.3f}" for part in PARTS) + " |")
    for data, columns in {
        OVERCORRECTION: ["confounded_purity", "nmi", "same_batch_excess", "total"],
        "pbmc_kang_ctrl_8donors": ["bio", "batch", "total"],
    }.items():
        part = table[table["data"] == data].groupby("method")[columns]
        print(f"\n| {data} | " + " | ".join(columns) + " |\n|---|" + "---|" * len(columns))
        for method in [m for m in methods if m in part.groups]:
            values = part.mean().loc[method]
            spreads = part.std().loc[method]
            cells = [f"{values[c]:.3f}" + (f" ± {spreads[c]:.3f}" if spreads[c] > 0 else "") for c in columns]
            print(f"| {method} | " + " | ".join(cells) + " |")

    figure, axes = plt.subplots(1, len(rated), figsize=(2.6 * len(rated), 3.6), sharey=True, layout="constrained")
    for axis, data in zip(axes, rated, strict=True):
        for at, method in enumerate(methods):
            values = table.query("data == @data and method == @method")["total"]
            axis.plot(values, [at] * len(values), "o", color="C0" if method in VARIANTS else "0.4", alpha=0.7)
        axis.set(title=data, xlim=(0.5, 0.9), xlabel="total")
        axis.title.set_fontsize(8)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].invert_yaxis()
    figure.savefig(RESULTS / "quality.png", dpi=110)


if __name__ == "__main__":
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("data", nargs="+", type=Path)
    running.add_argument("--baselines", type=Path, required=True)
    running.add_argument("--first", type=int, default=0, help="first seed")
    running.add_argument("--seeds", type=int, default=3)
    running.add_argument("--jobs", type=int, default=2)
    commands.add_parser("show")
    options = parser.parse_args()
    if options.command == "run":
        run(options.data, options.baselines, options.first, options.seeds, options.jobs)
    show()
