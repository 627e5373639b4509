"""The default number of steps beside those that it was before, and beside PCA.

    python benchmarks/steps.py --first 5000 --seeds 2 [--data DATA.h5ad:CELLS ...]

prints label accuracy, label purity (15 nearest cells) and label accuracy across batches of each embedding, for the
simulated designs of `truth/convergence.py` with several batches, for cells of many depths, and for real data (raw
counts in X, obs["batch"] and obs["cell_type"]). The number of passes was chosen on real data (seeds 0 to 3).
"""

from __future__ import annotations

import argparse
import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import scanpy as sc

import sc_vaenb
from sc_vaenb.fit.schedule import MAX_STEPS, MIN_STEPS, PASSES
from sc_vaenb.metrics import cross_batch_accuracy
from sc_vaenb.tl._pca import log_pca

sys.path.insert(0, str(Path(__file__).parent / "truth"))
from convergence import DESIGNS, real, simulated, worth

GENES_AND_DEPTH = (100, 100), (100, 1500), (1000, 300), (1000, 1500), (1000, 6000), (1000, 25000)


def of_depth(n_cells: int, n_genes: int, depth: int, seed: int) -> Any:
    """Six types in three batches."""
    adata = sc_vaenb.datasets.simulate(n_cells, n_genes, n_types=6, n_batches=3, mean_depth=depth, rng=seed)
    adata.layers["counts"] = adata.X.copy()
    return adata


def row(name: str, seed: int, adata: Any) -> dict[str, np.ndarray]:
    """The three numbers of each fit, and of PCA."""
    labels, batch = (adata.obs[key].astype(str).to_numpy() for key in ("cell_type", "batch"))
    mask = "highly_variable" if "highly_variable" in adata.var else None
    found = {}

    def fit(what: str, n_steps: int | None) -> None:
        sc_vaenb.tl.cvae(adata, "batch", mask_var=mask, n_steps=n_steps, device="cpu")
        found[what] = adata.obsm["X_vae"].copy()

    fit("default", None)
    used = adata.uns["vae"]["params"]["n_steps"]
    fit("16 passes", max(used - (PASSES - 16) * adata.n_obs // 128, MIN_STEPS))
    fit("60 + n/8", min(60 + adata.n_obs // 8, MAX_STEPS))
    fit("400 + n/10", min(400 + adata.n_obs // 10, MAX_STEPS))
    found["PCA"] = log_pca(adata, "counts", mask, 0)
    numbers = {
        what: np.array([*worth(x, labels).mean(1), cross_batch_accuracy(x, labels, batch)]) for what, x in found.items()
    }
    words = "  ".join(f"{what} " + " ".join(f"{n:.3f}" for n in three) for what, three in numbers.items())
    print(f"{name} (seed {seed}, {adata.n_obs} cells, {used} steps): {words}", flush=True)
    return numbers


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=5000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--data", nargs="*", default=[])
    options = parser.parse_args()
    sc.settings.verbosity = 0
    rows: list[dict[str, np.ndarray]] = []
    for seed in range(options.first, options.first + options.seeds):
        for design in DESIGNS:
            if DESIGNS[design].get("n_batches") != 1:
                rows.append(row(design, seed, simulated(design, seed)))
        for n_cells, (n_genes, depth) in product((100, 400), GENES_AND_DEPTH):
            rows.append(row(f"{n_genes} genes, depth {depth}", seed, of_depth(n_cells, n_genes, depth, seed)))
    for path in options.data:
        rows.append(row(Path(path).name, options.first, real(path, options.first)))
    for what in rows[0]:
        print(f"{what}: " + " ".join(f"{n:.3f}" for n in np.mean([numbers[what] for numbers in rows], 0)))
