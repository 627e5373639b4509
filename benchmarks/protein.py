"""RNA and surface proteins together (CITE-seq): does the joint embedding gain, and can missing panels be filled in?

    python benchmarks/protein.py run DATA.h5ad [--totalvi FOLDER] [--seeds 2]
    python benchmarks/protein.py show

DATA holds raw counts in X, obs["batch"], obs["cell_type"], obsm["protein_counts"] and uns["protein_names"].
FOLDER/totalvi_HIDDEN_SEED.npz holds what totalVI gave for its cells in the same order: `z`, with HIDDEN = none, and
`protein`, the foreground as in the other batches, where the panel of batch HIDDEN was not shown.

score    of the embeddings (see metrics.score); mind what the labels were made of
impute   Spearman's correlation of imputed with measured proteins in a batch whose panel was hidden, mean over proteins;
         the kNN takes the mean log count of the 15 nearest cells with proteins in the embedding of RNA alone
auc      of the foreground's probability, on simulated proteins whose true positives are known, mean over proteins;
         "counts" is the raw count of the protein
"""

from __future__ import annotations

import argparse
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

import sc_vaenb

RESULTS = Path(__file__).parent / "results"
TABLE = RESULTS / "protein.csv"
SHOWN = {"score": ["bio", "batch", "total", "label_purity"], "impute": ["spearman"], "auc": ["auc"]}
KEY = "protein_counts"
Rows = list[dict[str, object]]


def clr(counts: np.ndarray) -> np.ndarray:
    """Centred log ratios of each protein over the cells, as Seurat has them (margin 2)."""
    logged = np.log1p(counts)
    return np.log1p(counts / np.exp(logged.mean(0)))


def scores(adata: ad.AnnData, seed: int, peers: Path | None) -> Rows:
    found = {} if seed else components(adata)
    for method, key in {"tl.cvae of RNA": None, "tl.cvae of both": KEY}.items():
        found[method] = "X_both" if key else "X_rna"
        sc_vaenb.tl.cvae(adata, "batch", protein_key=key, rng=seed, key_added=found[method][2:])
    if peers and (peers / f"totalvi_none_{seed}.npz").exists():
        adata.obsm["totalvi"] = np.load(peers / f"totalvi_none_{seed}.npz")["z"]
        found["totalVI"] = "totalvi"
    labels, batch = (adata.obs[key].to_numpy(str) for key in ("cell_type", "batch"))
    return [
        {"part": "score", "method": method, "seed": seed, "measure": name, "value": value}
        for method, key in found.items()
        for name, value in sc_vaenb.metrics.score(adata.obsm[key], labels, batch, reference=adata.obsm["X_pca"]).items()
    ]


def components(adata: ad.AnnData) -> dict[str, str]:
    """Where the embeddings are that need no fit."""
    proteins = clr(np.asarray(adata.obsm[KEY], float))
    adata.obsm["X_clr"] = sc.pp.pca((proteins - proteins.mean(0)) / proteins.std(0)).astype(np.float32)
    sc_vaenb.tl.harmony(adata, "batch")
    sc_vaenb.tl.harmony(adata, "batch", basis="X_clr", key_added="clr_harmony")
    blocks = [adata.obsm[key] / np.sqrt(adata.obsm[key].var(0).sum()) for key in ("X_pca", "X_clr")]
    adata.obsm["X_blocks"] = np.hstack(blocks)
    sc_vaenb.tl.harmony(adata, "batch", basis="X_blocks", key_added="blocks_harmony")
    return {
        "PCA of RNA": "X_pca",
        "PCA of proteins": "X_clr",
        "PCA of both": "X_blocks",
        "Harmony of RNA": "X_pca_harmony",
        "Harmony of proteins": "X_clr_harmony",
        "Harmony of both": "X_blocks_harmony",
    }


def imputed(adata: ad.AnnData, seed: int, peers: Path | None) -> Rows:
    """Each batch's panel hidden in turn; needs the embedding of RNA that `scores` leaves."""
    measured, rows = np.asarray(adata.obsm[KEY], float), []
    for batch in adata.obs["batch"].cat.categories:
        hidden = (adata.obs["batch"] == batch).to_numpy()
        z = adata.obsm["X_rna"]
        near = NearestNeighbors(n_neighbors=15).fit(z[~hidden]).kneighbors(z[hidden])[1]
        part = adata.copy()
        part.obsm[KEY] = np.where(hidden[:, None], np.nan, measured)
        sc_vaenb.tl.cvae(part, "batch", protein_key=KEY, rng=seed)
        sc_vaenb.tl.denoised_protein(part)
        given = {
            "kNN": np.log1p(measured[~hidden])[near].mean(1),
            "tl.denoised_protein": part.obsm["vae_protein"].to_numpy()[hidden],
        }
        if peers and (peers / f"totalvi_{batch}_{seed}.npz").exists():
            given["totalVI"] = np.load(peers / f"totalvi_{batch}_{seed}.npz")["protein"][hidden]
        rows += [
            {"part": "impute", "method": method, "seed": seed, "measure": f"spearman of {name} in {batch}",
             "value": spearmanr(values[:, i], measured[hidden, i]).statistic}
            for method, values in given.items()
            for i, name in enumerate(adata.uns["protein_names"])
        ]  # fmt: skip
    return rows


def simulate(seed: int, n_cells: int = 800) -> tuple[ad.AnnData, np.ndarray]:
    """Five types in two batches; ten proteins, five of each type and five of two, over a background that overlaps."""
    adata = sc_vaenb.datasets.simulate(n_cells, 500, rng=seed)
    rng = np.random.default_rng(seed)
    types = adata.obs["cell_type"].cat.codes.to_numpy()
    one = [types == i for i in range(5)]
    positive = np.column_stack([*one, *(one[i] | one[(i + 1) % 5] for i in range(5))])
    background = rng.lognormal(2, 0.5, (2, 10))[adata.obs["batch"].cat.codes]
    mean = background * np.where(positive, rng.uniform(2, 6, 10), 1.0)
    adata.obsm[KEY] = rng.poisson(mean * rng.gamma(3, 1 / 3, mean.shape)).astype(np.float32)
    return adata, positive


def areas(seed: int) -> Rows:
    adata, positive = simulate(seed)
    sc_vaenb.pp.prepare(adata, batch_key="batch")
    sc_vaenb.tl.cvae(adata, "batch", protein_key=KEY, rng=seed)
    sc_vaenb.tl.denoised_protein(adata)
    given = {"counts": adata.obsm[KEY], "tl.denoised_protein": adata.obsm["vae_protein_foreground"].to_numpy()}
    return [
        {"part": "auc", "method": method, "seed": seed, "measure": "auc",
         "value": np.mean([roc_auc_score(p, v) for p, v in zip(positive.T, values.T, strict=True)])}
        for method, values in given.items()
    ]  # fmt: skip


def show() -> None:
    table = pd.read_csv(TABLE)
    for part, measures in SHOWN.items():
        own = table[table["part"] == part].copy()
        own["measure"] = own["measure"].replace(r"spearman of .* in (.*)", r"spearman in \1", regex=True)
        chosen = own[own["measure"].str.startswith(tuple(measures))]
        by_seed = chosen.groupby(["method", "measure", "seed"], sort=False)["value"].mean()
        summary = by_seed.groupby(["method", "measure"], sort=False).agg(["mean", "min", "max", "size"])
        print(
            f"\n{part}\n{summary.unstack()['mean'].round(3).to_string()}\nseeds\n{summary['size'].unstack().to_string()}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["run", "show"])
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--totalvi", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    if options.task == "run":
        sc.settings.verbosity = 0
        data = sc.read_h5ad(options.data)
        sc_vaenb.pp.prepare(data, batch_key="batch")
        rows: Rows = []
        for seed in range(options.seeds):
            rows += scores(data, seed, options.totalvi) + imputed(data, seed, options.totalvi) + areas(seed)
            RESULTS.mkdir(exist_ok=True)
            pd.DataFrame(rows).to_csv(TABLE, index=False, float_format="%.5f")
    show()
