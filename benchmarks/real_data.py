"""PCA, Harmony and CVAE on one real data set: does Leiden find the types again, do the batches mix, and how long is it?

    python benchmarks/real_data.py DATA.h5ad [--baselines EMBEDDINGS.npz] [--figure UMAP.png] [--seeds 3]

DATA holds raw counts in X, obs["batch"] and obs["cell_type"]. EMBEDDINGS may hold further embeddings of the same
cells in the same order ("pca", "harmony", "scvi", ...); without it, PCA is computed here.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import scanpy as sc
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

import sc_vaenb
from sc_vaenb.metrics import fuzzy_graph, knn, label_purity, leiden, same_batch_share, score

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("data")
parser.add_argument("--baselines")
parser.add_argument("--figure")
parser.add_argument("--seeds", type=int, default=1)
options = parser.parse_args()

adata = sc.read_h5ad(options.data)
sc_vaenb.pp.prepare(adata, batch_key="batch")
types, batch = adata.obs["cell_type"].to_numpy(str), adata.obs["batch"].to_numpy(str)
if options.baselines:
    stored = np.load(options.baselines)
    embeddings = {k: stored[k] for k in stored if stored[k].ndim == 2}
else:
    plain = adata[:, adata.var["highly_variable"]].copy()
    sc.pp.normalize_total(plain)
    sc.pp.log1p(plain)
    sc.pp.pca(plain)
    embeddings = {"pca": plain.obsm["X_pca"]}
for seed in range(options.seeds):
    start = time.perf_counter()
    sc_vaenb.tl.cvae(adata, "batch", key_added=f"cvae_{seed}", rng=seed)
    verdict = adata.uns[f"cvae_{seed}"]["verdict"]
    print(f"cvae, seed {seed}: {time.perf_counter() - start:.1f} s; {verdict['status']}: {verdict['message']}")
    embeddings[f"cvae_{seed}"] = adata.obsm[f"X_cvae_{seed}"]

print(f"{adata.n_obs} cells x {adata.var['highly_variable'].sum()} genes")
print(f"{'':12}{'NMI':>6}{'ARI':>6}{'own batch (mixed)':>20}{'own type':>10}{'bio':>7}{'batch':>7}{'total':>7}")
for name, embedding in embeddings.items():
    neighbors = knn(embedding, 16)
    clusters = leiden(fuzzy_graph(neighbors))[0]
    mixing = same_batch_share(embedding, batch, types, k=15)
    values = score(embedding, types, batch, reference=embeddings["pca"])
    print(
        f"{name:12}{normalized_mutual_info_score(types, clusters):6.2f}{adjusted_rand_score(types, clusters):6.2f}"
        f"{f'{mixing.share:.2f} ({mixing.expected:.2f})':>20}{label_purity(neighbors, types, batch):10.3f}"
        f"{values['bio']:7.3f}{values['batch']:7.3f}{values['total']:7.3f}"
    )
if options.figure:
    for name, embedding in embeddings.items():
        adata.obsm[f"X_{name}"] = embedding
    shown = [f"X_{name}" for name in ("pca", "harmony", "cvae_0") if name in embeddings]
    axes = sc_vaenb.pl.embedding(adata, shown, color=["batch", "cell_type"], show=False)
    axes[0, 0].figure.savefig(options.figure, dpi=110)
