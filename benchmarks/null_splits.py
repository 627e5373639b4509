"""Where there is nothing to correct: the largest batch of a data set, split at random into two that are called batches.

    python benchmarks/null_splits.py DATA.h5ad ...

Prints, for each seed, each part of both readings of `tl.cvae` minus that of `tl.vae`, and minus that of PCA. DATA holds
raw counts in X, obs["batch"] and obs["cell_type"]; types of fewer than 10 cells and genes of fewer than 3 are left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import scanpy as sc
import torch

import sc_vaenb

PARTS = ["total", "total_scib", "bio", "batch", "nmi", "ari", "clisi", "geometry", "cross_batch_accuracy"]
PARTS += ["ilisi", "kbet"]


def one_batch(path: str) -> sc.AnnData:
    adata = sc.read_h5ad(path)
    adata = adata[adata.obs["batch"] == adata.obs["batch"].value_counts().index[0]]
    n_of_type = adata.obs["cell_type"].value_counts()
    adata = adata[adata.obs["cell_type"].isin(n_of_type[n_of_type >= 10].index)]
    return adata[:, np.asarray((adata.X > 0).sum(0)).ravel() >= 3].copy()


def differences(adata: sc.AnnData, seed: int) -> pd.DataFrame:
    adata = adata.copy()
    halves = np.random.default_rng(seed).permutation(np.arange(adata.n_obs) % 2)
    adata.obs["split"] = pd.Categorical(halves.astype(str))
    sc_vaenb.pp.prepare(adata, batch_key="split")
    sc_vaenb.tl.vae(adata, rng=seed, key_added="vae")
    sc_vaenb.tl.cvae(adata, "split", rng=seed, key_added="cvae")
    expression = adata[:, adata.var["highly_variable"]].copy()
    sc.pp.normalize_total(expression)
    sc.pp.log1p(expression)
    sc.pp.pca(expression, n_comps=30)
    adata.obsm["X_pca"] = expression.obsm["X_pca"]
    sc_vaenb.tl.score(adata, ["X_pca", "X_vae", "X_cvae"], batch_key="split", label_key="cell_type")
    values = adata.uns["scores"]["values"][PARTS]
    return pd.DataFrame({f"minus {key}": values.loc["X_cvae"] - values.loc[key] for key in ("X_vae", "X_pca")}).T


if __name__ == "__main__":
    torch.set_num_threads(1)
    sc.settings.verbosity = "error"
    for path in sys.argv[1:]:
        for seed in range(3):
            print(Path(path).stem, seed)
            print(differences(one_batch(path), seed).round(3).to_string(), flush=True)
