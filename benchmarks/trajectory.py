"""Does pseudotime find the order of cells as well on tl.cvae as on PCA and Harmony?

    python benchmarks/trajectory.py [DATA.h5ad --time day] [--seeds 3]

Cells are simulated along a path through four profiles, in two batches, a new path for each seed; DATA holds raw counts
in X, obs["batch"] and a time in obs. Diffusion pseudotime (scanpy's defaults) starts at the cell closest to the mean of
the earliest cells. Printed are means and ranges over seeds of Spearman's correlation of pseudotime with the truth, over
all cells and within batches (mean), and the share of the edges of PAGA's tree that join neighbouring steps.
"""

from __future__ import annotations

import argparse

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from scipy.stats import spearmanr

import sc_vaenb

EMBEDDINGS = {"PCA": "X_pca", "Harmony": "X_pca_harmony", "tl.cvae": "X_vae", "tl.cvae, patience=10": "X_early"}


def simulate(seed: int, n_cells: int = 1500, n_genes: int = 500) -> ad.AnnData:
    """Negative-binomial counts (theta 2, depth 1,000) of cells spread evenly along a path through four profiles."""
    rng = np.random.default_rng(seed)
    position, batch = rng.uniform(0, 3, n_cells), rng.integers(2, size=n_cells)
    profiles = rng.normal(0, 1.2, n_genes) + rng.normal(0, 0.7, (4, n_genes))
    before = np.minimum(position.astype(int), 2)
    share = (position - before)[:, None]
    log_rate = (1 - share) * profiles[before] + share * profiles[before + 1] + rng.normal(0, 0.4, (2, n_genes))[batch]
    rate = np.exp(log_rate)
    mean = 1000 * rng.lognormal(0, 0.3, (n_cells, 1)) * rate / rate.sum(1, keepdims=True)
    counts = rng.poisson(mean * rng.gamma(2, 1 / 2, mean.shape)).astype(np.float32)
    obs = pd.DataFrame({"batch": pd.Categorical(batch.astype(str)), "time": position})
    adata = ad.AnnData(counts, obs=obs.set_index(obs.index.astype(str)))
    return adata[:, counts.sum(0) > 0].copy()


def evaluate(adata: ad.AnnData, time: str, seed: int, steps: pd.Series) -> list[dict[str, object]]:
    sc_vaenb.pp.prepare(adata, batch_key="batch")
    sc_vaenb.tl.harmony(adata, "batch")
    sc_vaenb.tl.cvae(adata, "batch", rng=seed)
    sc_vaenb.tl.cvae(adata, "batch", rng=seed, patience=10, key_added="early")
    truth, rows = adata.obs[time].to_numpy(float), []
    adata.obs["step"] = steps.astype("category")
    earliest = np.flatnonzero(truth <= np.quantile(truth, 0.02))
    for method, key in EMBEDDINGS.items():
        x = adata.obsm[key]
        sc.pp.neighbors(adata, use_rep=key)
        adata.uns["iroot"] = int(earliest[np.argmin(np.square(x[earliest] - x[earliest].mean(0)).sum(1))])
        sc.tl.diffmap(adata)
        sc.tl.dpt(adata)
        pseudotime = adata.obs["dpt_pseudotime"].to_numpy(float)
        batches = [adata.obs["batch"].to_numpy() == name for name in adata.obs["batch"].unique()]
        sc.tl.paga(adata, groups="step")
        edges = np.argwhere(adata.uns["paga"]["connectivities_tree"].toarray())
        rows.append(
            {
                "method": method,
                "all cells": spearmanr(pseudotime, truth).statistic,
                "within batches": np.mean([spearmanr(pseudotime[own], truth[own]).statistic for own in batches]),
                "PAGA tree": np.mean(np.abs(edges[:, 0] - edges[:, 1]) == 1),
            }
        )
    return rows


def show(name: str, rows: list[dict[str, object]]) -> None:
    table = pd.DataFrame(rows).groupby("method", sort=False)
    print(f"\n| {name} | " + " | ".join(table.mean().columns) + " |\n|---|" + "---|" * len(table.mean().columns))
    for method, mean in table.mean().iterrows():
        low, high = table.min().loc[method], table.max().loc[method]
        print(
            f"| {method} | " + " | ".join(f"{mean[c]:.3f} ({low[c]:.3f} to {high[c]:.3f})" for c in mean.index) + " |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?")
    parser.add_argument("--time", default="day")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    sc.settings.verbosity = 0
    found = []
    for seed in range(options.seeds):
        simulated = simulate(seed)
        found += evaluate(simulated, "time", seed, pd.cut(simulated.obs["time"], 9, labels=False))
    show("simulated", found)
    if options.data:
        found = []
        for seed in range(options.seeds):
            adata = sc.read_h5ad(options.data)
            found += evaluate(adata, options.time, seed, adata.obs[options.time])
        show(options.data.rsplit("/", 1)[-1], found)
