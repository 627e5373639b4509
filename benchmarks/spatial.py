"""Does averaging an embedding over neighbours in a tissue find its domains, and is tl.vae a better start than PCA?

    python benchmarks/spatial.py run [--seeds 2]
    python benchmarks/spatial.py show

Tissues are simulated: domains on a jittered grid, in each of which cell types are mixed in other shares. With `shift`
0 a domain shows in its mixture alone; above it, all cells of a domain also share changes of expression. An embedding is
averaged over each cell and its neighbours (of `obsp["spatial_connectivities"]`, as squidpy writes it), as many times as
there are hops. Scores are adjusted Rand indices of k-means at the true number of domains, and of cell types.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

RESULTS = Path(__file__).parent / "results"
TABLE = RESULTS / "spatial.csv"
HOPS = (0, 1, 2, 3, 5)
TISSUES = [(depth, shift) for shift in (0.0, 0.3) for depth in (40, 100, 400)]
N_REGIONS, N_TYPES, NEIGHBOURS = 15, 8, 8


def simulate(
    seed: int, depth: float, shift: float, side: int = 40, n_genes: int = 200, n_domains: int = 5
) -> ad.AnnData:
    """`side`^2 cells with negative-binomial counts (theta 2), about `depth` in all, in domains of several regions."""
    from scipy.spatial import cKDTree
    from sklearn.neighbors import kneighbors_graph

    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)
    place = grid + rng.uniform(-0.4, 0.4, grid.shape)
    domain = (np.arange(N_REGIONS) % n_domains)[cKDTree(rng.uniform(0, side, (N_REGIONS, 2))).query(place)[1]]
    shares = rng.dirichlet(np.full(N_TYPES, 0.7), n_domains)
    cell_type = np.array([rng.choice(N_TYPES, p=shares[d]) for d in domain])
    profiles = rng.normal(0, 1.2, n_genes) + rng.normal(0, 0.7, (N_TYPES, n_genes))
    rate = np.exp(profiles[cell_type] + rng.normal(0, shift, (n_domains, n_genes))[domain])
    mean = depth * rng.lognormal(0, 0.4, (len(place), 1)) * rate / rate.sum(1, keepdims=True)
    counts = rng.poisson(mean * rng.gamma(2, 1 / 2, mean.shape)).astype(np.float32)
    obs = {"domain": pd.Categorical(domain.astype(str)), "cell_type": pd.Categorical(cell_type.astype(str))}
    adata = ad.AnnData(sparse.csr_matrix(counts), pd.DataFrame(obs, np.arange(len(place)).astype(str)))
    adata.obsm["spatial"] = place
    adata = adata[counts.sum(1) > 0, counts.sum(0) > 0].copy()
    near = kneighbors_graph(adata.obsm["spatial"], NEIGHBOURS)
    adata.obsp["spatial_connectivities"] = near.maximum(near.T).tocsr()
    adata.layers["counts"] = adata.X.copy()
    return adata


def smoothed(embedding: NDArray, graph: sparse.csr_matrix, hops: int) -> NDArray:
    """The mean of each cell and its neighbours, `hops` times over."""
    own = graph.astype(float) + sparse.eye(graph.shape[0])
    mean = sparse.diags(1 / np.asarray(own.sum(1)).ravel()) @ own
    for _ in range(hops):
        embedding = mean @ embedding
    return embedding


def agreement(embedding: NDArray, labels: pd.Series) -> float:
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # on so few cells threads only wait for each other
        found = KMeans(labels.nunique(), n_init=10, random_state=0).fit_predict(embedding)
    return float(adjusted_rand_score(labels, found))


def evaluate(adata: ad.AnnData, seed: int, **options: object) -> list[dict[str, object]]:
    """Scores of PCA and of a `tl.vae` with these options, one row per method and number of hops."""
    import scanpy as sc

    import sc_vaenb

    plain = adata.copy()
    sc.pp.normalize_total(plain)
    sc.pp.log1p(plain)
    start = time.process_time()
    sc.pp.pca(plain, n_comps=30)
    between = time.process_time()
    sc_vaenb.tl.vae(adata, rng=seed, device="cpu", **options)
    seconds = {"PCA": between - start, "tl.vae": time.process_time() - between}
    rows: list[dict[str, object]] = []
    for method, embedding in (("PCA", plain.obsm["X_pca"]), ("tl.vae", adata.obsm["X_vae"])):
        for hops in HOPS:
            x = smoothed(embedding, adata.obsp["spatial_connectivities"], hops)
            found = {"domains": agreement(x, adata.obs["domain"]), "types": agreement(x, adata.obs["cell_type"])}
            rows.append({"method": method, "cpu_seconds": seconds[method], "hops": hops, **found})
    return rows


def run(seeds: int) -> None:
    rows = []
    for seed in range(seeds):
        for depth, shift in TISSUES:
            about = {"depth": depth, "shift": shift, "seed": seed}
            rows += [about | row for row in evaluate(simulate(seed, depth, shift), seed)]
    RESULTS.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(TABLE, index=False, float_format="%.4f")


def show() -> None:
    table = pd.read_csv(TABLE)
    print("| shift | depth | method | types, 0 hops | " + " | ".join(f"{h} hops" for h in HOPS) + " |")
    print("|---|" + "---|" * (3 + len(HOPS)))
    for (shift, depth, method), part in table.groupby(["shift", "depth", "method"]):
        by_hops = part.groupby("hops").mean(numeric_only=True)
        domains = " | ".join(f"{value:.2f}" for value in by_hops["domains"])
        print(f"| {shift:g} | {depth} | {method} | {by_hops.loc[0, 'types']:.2f} | {domains} |")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("--seeds", type=int, default=2)
    commands.add_parser("show")
    options = parser.parse_args()
    if options.command == "run":
        run(options.seeds)
    show()
