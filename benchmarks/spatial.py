"""Which embedding finds the domains of a tissue, and what does looking at the neighbours cost the cell types?

    python benchmarks/spatial.py run [--seeds 3] [DATA.h5ad ...]
    python benchmarks/spatial.py show

Tissues that are in the table of results already are not measured again.

Tissues of three slices are simulated: domains are regions or layers, in each of which cell types are mixed in other
shares. With `shift` 0 a domain shows in its mixture alone; above it, all cells of a domain also share changes of
expression. The genes of each slice have effects of their own. A DATA.h5ad has counts in X, obsm["spatial"], and in obs
`batch` (the slice), `domain` and `cell_type`.

Each embedding of single cells (PCA, Harmony, `tl.cvae`) is looked at in several ways:

own          as it is
mean         averaged over neighbours
BANKSY       own, mean and gradient, weighted (Singhal et al. 2024; our reading of the paper)
CellCharter  own, and the means of the cells at 1, 2 and 3 hops (Varrone et al. 2024; our reading)
shares       the shares of kinds of cells around each cell: one half of tl.spatial
tl.spatial   mean, and these shares

`ari` and `nmi` compare k-means at the true number of domains with the domains, over all slices; `ari_slice` is the mean
over single slices, `leiden` the ARI of Leiden clusters of this number (of `tl.cvae`, first seed). `types` is the ARI of
k-means with cell types, `purity` the share of nearest neighbours of the same type.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

RESULTS = Path(__file__).parent / "results"
TABLE = RESULTS / "spatial.csv"
TISSUES = {  # name: seed, design, depth, shift
    "regions, 40 counts": (100, "regions", 40, 0.0),
    "regions, 100 counts": (101, "regions", 100, 0.0),
    "layers, 40 counts, shift": (102, "layers", 40, 0.3),
    "layers, 100 counts": (103, "layers", 100, 0.0),
    "regions, 400 counts, shift": (104, "regions", 400, 0.3),
}
N_DOMAINS, N_REGIONS, N_TYPES, N_NEIGHBORS, HOPS = 5, 15, 8, 6, 5
LAYERS = np.cumsum([0.1, 0.25, 0.15, 0.3])  # where a layer ends, as a share of the slice


def simulate(
    seed: int, design: str, depth: float, shift: float, side: int = 30, n_slices: int = 3, n_genes: int = 200
) -> ad.AnnData:
    """Slices of `side`^2 cells with negative-binomial counts (theta 2), about `depth` in all."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(N_TYPES, 0.7), N_DOMAINS)
    profiles = rng.normal(0, 1.2, n_genes) + rng.normal(0, 0.7, (N_TYPES, n_genes))
    changes = rng.normal(0, shift, (N_DOMAINS, n_genes))
    slices = []
    for number in range(n_slices):
        grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)
        place = grid + rng.uniform(-0.4, 0.4, grid.shape)
        domain = _domains(place, design, side, rng)
        cell_type = np.array([rng.choice(N_TYPES, p=shares[d]) for d in domain])
        rate = np.exp(profiles[cell_type] + changes[domain] + rng.normal(0, 0.3, n_genes))
        mean = depth * rng.lognormal(0, 0.4, (len(place), 1)) * rate / rate.sum(1, keepdims=True)
        counts = rng.poisson(mean * rng.gamma(2, 1 / 2, mean.shape)).astype(np.float32)
        obs = pd.DataFrame({"domain": domain, "cell_type": cell_type, "batch": number}).astype(str)
        obs.index = [f"{cell}-{number}" for cell in obs.index]
        slices.append(ad.AnnData(sparse.csr_matrix(counts), obs, obsm={"spatial": place}))
    adata = ad.concat(slices)
    adata = adata[adata.X.sum(1).A1 > 0, adata.X.sum(0).A1 > 0].copy()
    adata.obs = adata.obs.astype("category")
    return adata


def _domains(place: NDArray, design: str, side: int, rng: np.random.Generator) -> NDArray[np.int64]:
    from scipy.spatial import cKDTree

    if design == "layers":
        wave = place[:, 1] + 2 * np.sin(2 * np.pi * place[:, 0] / side + rng.uniform(0, 6))
        return np.searchsorted(LAYERS * side, wave)
    return (np.arange(N_REGIONS) % N_DOMAINS)[cKDTree(rng.uniform(0, side, (N_REGIONS, 2))).query(place)[1]]


def neighbours(adata: ad.AnnData) -> sparse.csr_matrix:
    """The nearest cells of the same slice, in one direction or the other."""
    from sklearn.neighbors import kneighbors_graph

    n = adata.n_obs
    near = sparse.lil_matrix((n, n))
    for cells in adata.obs.groupby("batch", observed=True).indices.values():
        graph = kneighbors_graph(adata.obsm["spatial"][cells], min(N_NEIGHBORS, len(cells) - 1)).tocoo()
        near[cells[graph.row], cells[graph.col]] = 1
    near = near.tocsr()
    return near.maximum(near.T)


def smoothed(embedding: NDArray, graph: sparse.csr_matrix, hops: int) -> NDArray:
    """The mean of each cell and its neighbours, `hops` times over."""
    own = graph.astype(float) + sparse.eye(graph.shape[0])
    mean = sparse.diags(1 / np.asarray(own.sum(1)).ravel()) @ own
    for _ in range(hops):
        embedding = mean @ embedding
    return embedding


def banksy(embedding: NDArray, graph: sparse.csr_matrix, place: NDArray, weight: float = 0.8) -> NDArray:
    """Own state, mean and gradient of the neighbours' states, each with total variance 1, weighted."""
    near = (graph @ graph + graph).tocoo()
    is_other = near.row != near.col
    row, column = near.row[is_other], near.col[is_other]
    share = 1 / np.bincount(row, minlength=len(place))[row]
    mean = sparse.csr_matrix((share, (row, column)), near.shape) @ embedding
    angle = np.arctan2(*(place[column] - place[row]).T)
    squares = np.zeros_like(mean)
    for part in (np.cos, np.sin):
        wave = sparse.csr_matrix((share * part(angle), (row, column)), near.shape)
        squares += (wave @ embedding - np.asarray(wave.sum(1)) * mean) ** 2
    parts = zip((1 - weight, weight * 2 / 3, weight / 3), (embedding, mean, np.sqrt(squares)), strict=True)
    return np.hstack([np.sqrt(w) * _unit(x) for w, x in parts])


def cellcharter(embedding: NDArray, graph: sparse.csr_matrix, n_rings: int = 3) -> NDArray:
    """Own state, and the mean state of the cells at 1, 2, ... hops, each with total variance 1."""
    seen = ring = sparse.eye(graph.shape[0], format="csr", dtype=bool)
    means = [embedding]
    for _ in range(n_rings):
        ring = ((ring @ graph.astype(bool)) > seen).tocsr()
        seen = (seen + ring).astype(bool)
        n = np.maximum(np.asarray(ring.sum(1)), 1)
        means.append(ring.astype(float) @ embedding / n)
    return np.hstack([_unit(x) for x in means])


def _unit(x: NDArray) -> NDArray:
    x = x - x.mean(0)
    return x / np.sqrt(np.square(x).sum(1).mean())


def clusters(x: NDArray, n: int) -> NDArray:
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):  # on so few cells threads only wait for each other
        return KMeans(n, n_init=5, random_state=0).fit_predict(x)


def leiden(x: NDArray, n: int) -> NDArray:
    """Leiden clusters at the first resolution of a bisection at which there are `n`, or at its end."""
    from sc_vaenb import metrics

    graph, low, high = metrics.fuzzy_graph(metrics.knn(x.astype(np.float32), 15)), 0.0, 2.0
    for _ in range(10):
        middle = (low + high) / 2
        (found,) = metrics.leiden(graph, (middle,))
        n_found = len(np.unique(found))
        if n_found == n:
            break
        low, high = (middle, high) if n_found < n else (low, middle)
    return found


def scores(x: NDArray, adata: ad.AnnData, *, with_leiden: bool) -> dict[str, float]:
    from sklearn.metrics import adjusted_rand_score as ari
    from sklearn.metrics import normalized_mutual_info_score as nmi

    from sc_vaenb import metrics

    domain, cell_type = (adata.obs[name].astype(str).to_numpy(str) for name in ("domain", "cell_type"))
    n = len(np.unique(domain))
    found = clusters(x, n)
    by_slice = adata.obs.groupby("batch", observed=True).indices.values()
    nearest = metrics.knn(x.astype(np.float32), 15)
    return {
        "ari": ari(domain, found),
        "nmi": nmi(domain, found),
        "ari_slice": float(np.mean([ari(domain[cells], found[cells]) for cells in by_slice])),
        "leiden": ari(domain, leiden(x, n)) if with_leiden else np.nan,
        "types": ari(cell_type, clusters(x, len(np.unique(cell_type)))),
        "purity": float(np.mean(metrics.label_purity(nearest, cell_type))),
    }


def views(adata: ad.AnnData, embedding: NDArray, seed: int) -> Iterator[tuple[str, NDArray]]:
    """Each way of looking at an embedding."""
    import sc_vaenb

    graph = neighbours(adata)
    yield "own", embedding
    yield "mean", smoothed(embedding, graph, HOPS)
    yield "BANKSY", banksy(embedding, graph, adata.obsm["spatial"])
    yield "CellCharter", cellcharter(embedding, graph)
    adata.obsm["X_one"] = embedding
    sc_vaenb.tl.spatial(adata, "one", slice_key="batch", rng=seed)
    both = adata.obsm["X_one_spatial"]
    yield "shares", both[:, embedding.shape[1] :]
    yield "tl.spatial", both


def evaluate(adata: ad.AnnData, seed: int, **options: object) -> list[dict[str, object]]:
    """Scores of PCA, Harmony and a `tl.cvae` with these options: one row for each way of looking at each."""
    import scanpy as sc

    import sc_vaenb

    plain = adata.copy()
    sc.pp.normalize_total(plain)
    sc.pp.log1p(plain)
    sc.pp.pca(plain, n_comps=30, random_state=seed)
    sc_vaenb.tl.harmony(plain, "batch", rng=seed)
    sc_vaenb.tl.cvae(adata, "batch", layer=None, rng=seed, device="cpu", **options)
    embeddings = {"PCA": plain.obsm["X_pca"], "Harmony": plain.obsm["X_pca_harmony"], "tl.cvae": adata.obsm["X_vae"]}
    return [
        {"embedding": name, "view": view} | scores(x, adata, with_leiden=name == "tl.cvae" and seed == 0)
        for name, embedding in embeddings.items()
        for view, x in views(adata, embedding, seed)
    ]


def run(files: list[Path], seeds: int) -> None:
    tissues = {name: simulate(*design) for name, design in TISSUES.items()}
    tissues |= {file.stem: ad.read_h5ad(file) for file in files}
    table = pd.read_csv(TABLE) if TABLE.exists() else pd.DataFrame({"tissue": []})
    for name in [name for name in tissues if name not in set(table["tissue"])]:
        rows = [
            {"tissue": name, "seed": seed} | row
            for seed in range(seeds)
            for row in evaluate(tissues[name].copy(), seed)
        ]
        table = pd.concat([table, pd.DataFrame(rows)])
        RESULTS.mkdir(exist_ok=True)
        table.to_csv(TABLE, index=False, float_format="%.4f")


def show() -> None:
    table = pd.read_csv(TABLE)
    for score in ("ari", "nmi", "leiden", "types", "purity"):
        _print(score, table.pivot_table(score, ["tissue", "embedding"], "view", sort=False))
    by_tissue = table.groupby(["tissue", "embedding", "view"], sort=False)["ari"]
    _print("ari, largest less smallest of the seeds", by_tissue.agg(np.ptp).unstack(sort=False))


def _print(title: str, table: pd.DataFrame) -> None:
    print(f"\n{title}\n\n| tissue | embedding | {' | '.join(table.columns)} |\n|---|---|{'---|' * table.shape[1]}")
    for (tissue, embedding), values in table.iterrows():
        print(f"| {tissue} | {embedding} | {' | '.join(f'{value:.2f}' for value in values)} |")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("data", nargs="*", type=Path)
    running.add_argument("--seeds", type=int, default=3)
    commands.add_parser("show")
    options = parser.parse_args()
    if options.command == "run":
        run(options.data, options.seeds)
    show()
