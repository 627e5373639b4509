"""Is what a fit says about its convergence true? Fits of many lengths and learning rates, compared with each other.

    python benchmarks/truth/convergence.py [--first 1000] [--seeds 1] [--data DATA.h5ad[:CELLS] ...] [--out TABLE.csv]

Each data set is fitted with the default, four times as many steps, 20, 60, 120 and 250 steps, and (150 cells or more)
learning rates that are too low and too high. What a fit is worth: the mean of label accuracy (majority of the 15
nearest cells) and label purity (share of these that have the label). One embedding is better than another if it is so
by more than 0.02 and two standard errors over the cells. So it is known of each fit whether a longer one, a shorter
one or PCA would have been better, and a statement is right if

- `converged`: none of the three is better (where the message names a shorter fit, that one may be),
- `still_improving`: a longer one is better,
- `overfitted`: a shorter one or PCA is better,
- `worse_than_pca`: PCA is better,
- `not_judged`: the fit trained less than the default does; counted apart.

Simulated designs, and real data with raw counts in X, obs["batch"] and obs["cell_type"].
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

import sc_vaenb
from sc_vaenb._scanpy import override
from sc_vaenb.fit.convergence import fit_length
from sc_vaenb.fit.schedule import DEFAULT_RATE, default_steps
from sc_vaenb.metrics import knn
from sc_vaenb.tl._pca import log_pca

MARGIN = 0.02
DESIGNS: dict[str, dict[str, Any]] = {
    "60 cells": {"n_cells": 60, "n_genes": 300},
    "100 cells": {"n_cells": 100, "n_genes": 500},
    "200 cells": {"n_cells": 200, "n_genes": 300},
    "500 cells": {"n_cells": 500, "n_genes": 500},
    "1,500 cells": {"n_cells": 1500, "n_genes": 500, "n_types": 8},
    "deep": {"n_cells": 600, "n_genes": 500, "mean_depth": 8000},
    "shallow": {"n_cells": 1000, "n_genes": 500, "mean_depth": 200, "n_types": 6},
    "few genes": {"n_cells": 800, "n_genes": 60, "mean_depth": 300},
    "many batches": {"n_cells": 1000, "n_genes": 400, "n_batches": 12},
    "one batch": {"n_cells": 700, "n_genes": 300, "n_batches": 1},
}
SHORT = 20, 60, 120, 250
RATES = 1e-4, 6e-2


def simulated(design: str, seed: int) -> ad.AnnData:
    """Counts of a design; folds of markers and batch effects differ between seeds."""
    rng = np.random.default_rng(seed)
    strength = {"marker_fold": float(rng.uniform(2.5, 5)), "batch_strength": float(rng.uniform(0.1, 0.5))}
    adata = sc_vaenb.datasets.simulate(**{"n_types": 5, "n_batches": 3, **strength, **DESIGNS[design]}, rng=seed)
    adata.layers["counts"] = adata.X.copy()
    return adata


def real(path: str, seed: int) -> ad.AnnData:
    """Cells of a file (all, or as many as said behind a colon) with the genes that vary most."""
    name, _, n_cells = path.partition(":")
    adata = ad.read_h5ad(name)
    labels = "cell_type_coarse" if "cell_type_coarse" in adata.obs else "cell_type"
    cells = np.flatnonzero(adata.obs[labels].notna())
    cells = np.sort(np.random.default_rng(seed).permutation(cells)[: int(n_cells or len(cells))])
    adata = ad.AnnData(adata.X[cells], adata.obs.iloc[cells].copy(), adata.var[[]])
    adata.obs["batch"] = pd.Categorical(adata.obs["batch"].astype(str))
    adata.obs["cell_type"] = pd.Categorical(adata.obs[labels].astype(str))
    adata.layers["counts"] = adata.X.copy()
    sc_vaenb.pp.prepare(adata, batch_key="batch", n_top_genes=min(1000, adata.n_vars))
    return adata


def worth(embedding: Any, labels: Any) -> np.ndarray:
    """Accuracy and purity of each cell (2 x cells)."""
    codes = pd.factorize(labels)[0]
    near = codes[knn(embedding, min(15, max(3, len(codes) // 8)) + 1).indices[:, 1:]]
    votes = np.stack([(near == code).sum(1) for code in range(codes.max() + 1)], axis=1)
    return np.stack([votes.argmax(1) == codes, (near == codes[:, None]).mean(1)]).astype(float)


def plan(n_cells: int, usual: int) -> dict[str, dict[str, Any]]:
    """The fits to so many cells, which get `usual` steps by default."""
    fits: dict[str, dict[str, Any]] = {"default": {}, "4 x default": {"n_steps": 4 * usual}}
    fits |= {f"{n} steps": {"n_steps": n} for n in SHORT if n < usual}
    return fits | ({f"rate {rate:g}": {"learning_rate": rate} for rate in RATES} if n_cells >= 150 else {})


def judge(name: str, seed: int, adata: ad.AnnData) -> list[dict[str, Any]]:
    """A row for each fit: what it says, and what is true."""
    labels = adata.obs["cell_type"].astype(str).to_numpy()
    mask = "highly_variable" if "highly_variable" in adata.var else None
    found, said, length = {}, {}, {}
    counts = adata.layers["counts"] if mask is None else adata.layers["counts"][:, adata.var[mask].to_numpy()]
    usual = default_steps(*counts.shape, float(np.median(np.asarray(counts.sum(1)))))
    for fit, arguments in plan(adata.n_obs, usual).items():
        options = {"mask_var": mask, "device": "cpu", **arguments}
        if adata.obs["batch"].nunique() > 1:
            sc_vaenb.tl.cvae(adata, "batch", **options)
        else:
            sc_vaenb.tl.vae(adata, **options)
        found[fit], said[fit] = worth(adata.obsm["X_vae"], labels), adata.uns["vae"]["verdict"]
        steps = arguments.get("n_steps", usual)
        length[fit] = fit_length(steps, arguments.get("learning_rate", DEFAULT_RATE), usual)
    pca = worth(log_pca(adata, "counts", mask, 0), labels)
    rows = []
    for fit, own in found.items():
        sane = [other for other in found if other != fit and length[other] < 5]  # not of too high a rate
        longer = [found[other] for other in sane if length[other] > 1.5 * length[fit] or length[fit] > 5]
        shorter = [found[other] for other in sane if length[other] < length[fit] / 1.5]
        truth = {"longer": better(longer, own), "shorter": better(shorter, own), "pca": better([pca], own)}
        status, message = said[fit]["status"], said[fit]["message"]
        rows.append({
            "data": name, "seed": seed, "n_cells": adata.n_obs, "fit": fit, "status": status,
            "right": right(status, message, **truth), **truth,
            "accuracy": own[0].mean(), "purity": own[1].mean(), "pca_accuracy": pca[0].mean(),
            "pca_purity": pca[1].mean(), "message": message,
        })  # fmt: skip
    return rows


def better(others: list[np.ndarray], own: np.ndarray) -> bool:
    """Whether the best of the others is better beyond the margin and chance."""
    if not others:
        return False
    gain = (max(others, key=np.mean) - own).mean(0)
    return bool(gain.mean() > MARGIN + 2 * gain.std() / np.sqrt(len(gain)))


def right(status: str, message: str, *, longer: bool, shorter: bool, pca: bool) -> bool:
    """Whether a statement agrees with what is true."""
    return {
        "converged": not (longer or pca or (shorter and "shorter" not in message)),
        "still_improving": longer,
        "overfitted": shorter or pca,
        "worse_than_pca": pca,
        "not_judged": True,
    }[status]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--designs", nargs="*", default=list(DESIGNS))
    parser.add_argument("--data", nargs="*", default=[])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    pd.set_option("display.width", 200, "display.max_columns", 20)
    with override(verbosity="error"):
        for seed in range(options.first, options.first + options.seeds):
            for case in [*options.designs, *options.data]:
                adata = simulated(case, seed) if case in DESIGNS else real(case, seed)
                rows += judge(case.rpartition("/")[2], seed, adata)
                if options.out:
                    pd.DataFrame(rows).to_csv(options.out, index=False)
    table = pd.DataFrame(rows)
    print(table[~table["right"]].drop(columns=["message", "right"]).round(3).to_string(index=False))
    for by in ("status", "data", "fit"):
        print(table.groupby(by, sort=False)["right"].agg(right="sum", asked="count").to_string())
    clear = table[table["status"] != "not_judged"]
    print(f"all: {table['right'].mean():.1%} of {len(table)}; judged: {clear['right'].mean():.1%} of {len(clear)}")
