"""Do the components of a prior find the kinds of cells, and what does the prior do to the embedding?

    python benchmarks/priors.py simulated [--types 4 8 12] [--seeds 2] [--cells 1000] [--jobs 2]
    python benchmarks/priors.py real DATA.h5ad ... --baselines FOLDER [--seeds 2] [--jobs 2]
    python benchmarks/priors.py show

Simulated cells are of known types, in one batch (tl.vae) or two (tl.cvae). Of each prior, `found` is the number of
components used, `ari` that of the likeliest component against the types, and `leiden_ari` that of Leiden clusters
(resolution 1) of the embedding. DATA and FOLDER are those of quality.py, and so are the scores; there `ari` and
`batch_ari` compare components with the labels and with the batches.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PRIORS = ("normal", "conditional", "mog", "vamp")


def fit(adata: Any, batched: bool, prior: str, seed: int, truth: str) -> dict[str, Any]:
    """Fit, and say how many components there are and how they agree with the truth and the batches."""
    import scanpy as sc
    import torch
    from sklearn.metrics import adjusted_rand_score as ari

    import sc_vaenb

    torch.set_num_threads(1)
    sc.settings.verbosity = 0
    if batched:
        sc_vaenb.tl.cvae(adata, "batch", prior=prior, rng=seed)
    else:
        sc_vaenb.tl.vae(adata, prior=prior, rng=seed)
    row: dict[str, Any] = {"prior": prior, "seed": seed}
    row["validation_loss"] = adata.uns["vae"]["history"]["validation_loss"][-1]
    if "components" in adata.uns["vae"]:
        component = adata.obs["vae_component"]
        row["found"] = int(adata.uns["vae"]["components"]["live"].sum())
        row |= {"ari": ari(adata.obs[truth], component), "batch_ari": ari(adata.obs["batch"], component)}
    return row


def simulated(n_types: int, n_batches: int, prior: str, seed: int, n_cells: int) -> dict[str, Any]:
    import scanpy as sc
    from sklearn.metrics import adjusted_rand_score as ari

    import sc_vaenb

    adata = sc_vaenb.datasets.simulate(n_cells, n_types=n_types, n_batches=n_batches, rng=seed)
    adata.layers["counts"] = adata.X.copy()
    row = {"types": n_types, "batches": n_batches, **fit(adata, n_batches > 1, prior, seed, "cell_type")}
    sc.pp.neighbors(adata, use_rep="X_vae")
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2)
    found = adata.obs["leiden"]
    return row | {"leiden": found.nunique(), "leiden_ari": ari(adata.obs["cell_type"], found)}


def real(path: Path, baselines: Path, prior: str, seed: int) -> dict[str, Any]:
    import numpy as np
    import scanpy as sc

    import sc_vaenb
    from sc_vaenb.metrics import score

    adata = sc.read_h5ad(path)
    sc_vaenb.pp.prepare(adata, batch_key="batch")
    row = {"data": path.stem, **fit(adata, True, prior, seed, "cell_type")}
    labels, batch = (adata.obs[key].to_numpy(str) for key in ("cell_type", "batch"))
    values = score(adata.obsm["X_vae"], labels, batch, reference=np.load(baselines / f"{path.stem}.npz")["pca"])
    return row | {name: values[name] for name in ("total", "bio", "batch")}


def run(options: argparse.Namespace) -> None:
    import pandas as pd
    from joblib import Parallel, delayed

    seeds = range(options.seeds)
    if options.command == "simulated":
        tasks = [
            delayed(simulated)(types, batches, prior, seed, options.cells)
            for seed in seeds for types in options.types for batches in (1, 2) for prior in PRIORS
            if prior != "conditional"
        ]  # fmt: skip
    else:
        tasks = [
            delayed(real)(path, options.baselines, prior, seed)
            for seed in seeds for path in options.data for prior in PRIORS
        ]  # fmt: skip
    rows = []
    options.results.mkdir(exist_ok=True)
    for row in Parallel(n_jobs=options.jobs, return_as="generator")(tasks):
        rows.append(row)
        pd.DataFrame(rows).to_csv(options.results / f"priors_{options.command}.csv", index=False, float_format="%.4f")


def show(results: Path) -> None:
    import pandas as pd

    for command, by in (("simulated", ["types", "batches", "prior"]), ("real", ["data", "prior"])):
        path = results / f"priors_{command}.csv"
        if path.exists():
            mean = pd.read_csv(path).groupby(by, sort=False).mean().drop(columns="seed")
            print(f"\n{command}\n{mean.round(3).to_string(na_rep='')}")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSV files")
    commands = parser.add_subparsers(dest="command", required=True)
    for name in ("simulated", "real"):
        command = commands.add_parser(name)
        command.add_argument("--seeds", type=int, default=2)
        command.add_argument("--jobs", type=int, default=2)
        if name == "simulated":
            command.add_argument("--types", type=int, nargs="+", default=[4, 8, 12])
            command.add_argument("--cells", type=int, default=1000)
        else:
            command.add_argument("data", nargs="+", type=Path)
            command.add_argument("--baselines", type=Path, required=True)
    commands.add_parser("show")
    options = parser.parse_args(arguments)
    if options.command != "show":
        run(options)
    show(options.results)


if __name__ == "__main__":
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    main()
