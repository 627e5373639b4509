"""What the dials of batch removal give and cost: mixing against biology over the weight of each, on real data sets.

    python benchmarks/removal.py run DATA.h5ad ... --baselines FOLDER [--seeds 1] [--jobs 2] [--dials adversary mmd]
    python benchmarks/removal.py show

DATA and FOLDER are those of quality.py. Each fit is scored with its alignment and without; beside the dials stand the
weight of the KL and the number of steps, which move a fit along the same curve, and other methods. Rows are added to
the table as they come; fits that are in it are not made again.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
TABLE = RESULTS / "removal.csv"
PEERS = {"pca": "PCA", "harmony": "Harmony", "scvi": "scVI"}
BATCH_PENALTIES = {
    "adversary": (1.0, 3.0, 10.0, 30.0),
    "mmd": (10.0, 30.0, 100.0, 300.0),
    "beta": (1.0, 2.0),  # 0.5 by default
    "n_steps": (1000,),
}
CYCLE = "cycle"  # consistency of cells decoded as another batch: measured before it was left out, as it does not mix
SHOWN = [*BATCH_PENALTIES, CYCLE]
COLORS = dict(zip(["default", *SHOWN], ["black", "C3", "C2", "0.6", "0.75", "C0"], strict=True))
CONFOUNDED = "mouse_embryo_4libs"  # each library has one stage: batches are laid over each other with overlap="all"
COLUMNS = ["bio", "batch", "total", "ilisi", "kbet", "nmi", "neighborhood_overlap", "confounded_purity"]


def job(task: tuple[Path, Path, str, float, int]) -> list[dict[str, object]]:
    import numpy as np
    import scanpy as sc
    import torch

    import sc_vaenb
    from sc_vaenb._record import FittedModel
    from sc_vaenb.inference.embed import embed
    from sc_vaenb.metrics import score
    from sc_vaenb.tl._counts import read_counts

    path, baselines, dial, value, seed = task
    torch.set_num_threads(1)
    sc.settings.verbosity = 0
    adata = sc.read_h5ad(path)
    stored = np.load(baselines / f"{path.stem}.npz")
    labels, batch = (adata.obs[key].to_numpy(str) for key in ("cell_type", "batch"))
    seconds, knows = 0.0, np.nan
    if dial in PEERS.values():
        embeddings = {"": stored[next(key for key, name in PEERS.items() if name == dial)]}
    else:
        sc_vaenb.pp.prepare(adata, batch_key="batch")
        chosen = {} if dial == "default" else {dial: int(value) if dial == "n_steps" else value}
        overlap = "all" if path.stem == CONFOUNDED else "auto"
        start = time.process_time()
        sc_vaenb.tl.cvae(adata, "batch", overlap=overlap, rng=seed, **chosen)
        seconds = time.process_time() - start
        model = FittedModel.from_uns(adata, "vae")  # the alignment comes after the fit, which is the same without it
        means = embed(model.model, read_counts(adata, "vae", model), torch.device("cpu"))
        embeddings = {"False": means, "True": adata.obsm["X_vae"]}
        knows = adata.uns["vae"]["history"].get(f"validation_{dial}", [np.nan])[-1] / (value or np.nan)
    return [
        {"data": path.stem, "dial": dial, "value": value, "align": align, "seed": seed, "seconds_one_thread": seconds}
        | {"penalty": knows, **score(embedding, labels, batch, reference=stored["pca"])}
        for align, embedding in embeddings.items()
    ]


def run(paths: list[Path], baselines: Path, seeds: int, jobs: int, dials: list[str]) -> None:
    import numpy as np
    import pandas as pd
    from joblib import Parallel, delayed

    settings = [("default", np.nan), *((dial, value) for dial in dials for value in BATCH_PENALTIES[dial])]
    tasks = [(path, baselines, peer, np.nan, 0) for path in paths for peer in PEERS.values()]
    tasks += [(path, baselines, *setting, seed) for seed in range(seeds) for path in paths for setting in settings]
    if TABLE.exists():
        rows = pd.read_csv(TABLE)[["data", "dial", "value", "seed"]].astype(str)
        there = set(rows.itertuples(index=False, name=None))
        tasks = [task for task in tasks if (task[0].stem, task[2], str(task[3]), str(task[4])) not in there]
    RESULTS.mkdir(exist_ok=True)
    for rows in Parallel(n_jobs=jobs, verbose=5, return_as="generator_unordered")(delayed(job)(task) for task in tasks):
        table = pd.DataFrame(rows)
        table.to_csv(TABLE, mode="a", header=not TABLE.exists(), index=False, float_format="%.5f")


def show() -> None:
    import matplotlib.pyplot as plt
    import pandas as pd

    table = pd.read_csv(TABLE)
    data = list(dict.fromkeys(table["data"]))
    order = [*PEERS.values(), "default", *SHOWN]
    for name in data:
        part = table[table["data"] == name].groupby(["dial", "value", "align"], dropna=False)[COLUMNS].mean()
        part = part.loc[sorted(part.index, key=lambda row: (str(row[2]), order.index(row[0]), row[1]))]
        print(f"\n{name}\n| dial | align | " + " | ".join(COLUMNS) + " |\n|---|---|" + "---|" * len(COLUMNS))
        for (dial, value, align), values in part.iterrows():
            setting = dial if pd.isna(value) else f"{dial} {value:g}"
            known = "" if pd.isna(align) else align
            print(f"| {setting} | {known} | " + " | ".join(f"{v:.3f}" for v in values) + " |")

    figure, axes = plt.subplots(2, len(data), figsize=(3.2 * len(data), 6.4), squeeze=False, layout="constrained")
    for row, align in zip(axes, (False, True), strict=True):
        for axis, name in zip(row, data, strict=True):
            part = table[table["data"] == name]
            for peer, marker in (("Harmony", "s"), ("scVI", "^")):
                point = part[part["dial"] == peer]
                axis.plot(point["batch"], point["bio"], marker, color="0.4", label=peer)
            fits = part[part["align"].astype(str) == str(align)].groupby(["dial", "value"], dropna=False)
            means = fits[["batch", "bio"]].mean().reset_index()
            start = means[means["dial"] == "default"]
            axis.plot(start["batch"], start["bio"], "*", color=COLORS["default"], ms=12, label="default", zorder=3)
            for dial in SHOWN:
                curve = means[means["dial"] == dial].sort_values("value")
                axis.plot(curve["batch"], curve["bio"], "o-", color=COLORS[dial], ms=4, label=dial)
                for point in curve.itertuples():
                    axis.annotate(f"{point.value:g}", (point.batch, point.bio), fontsize=6, color=COLORS[dial])
            axis.set(title=f"{name}\nalign={align}", xlabel="batches mixed", ylabel="biology kept")
            axis.title.set_fontsize(8)
            axis.grid(alpha=0.3)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=7, fontsize=8)
    figure.savefig(RESULTS / "removal.png", dpi=110)


if __name__ == "__main__":
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("data", nargs="+", type=Path)
    running.add_argument("--baselines", type=Path, required=True)
    running.add_argument("--seeds", type=int, default=1)
    running.add_argument("--jobs", type=int, default=2)
    running.add_argument("--dials", nargs="*", choices=list(BATCH_PENALTIES), default=list(BATCH_PENALTIES))
    commands.add_parser("show")
    options = parser.parse_args()
    if options.command == "run":
        run(options.data, options.baselines, options.seeds, options.jobs, options.dials)
    show()
