"""Genes and open chromatin: which kinds of cells do the neighbours in an embedding show? `docs/chromatin.md`.

    python benchmarks/chromatin.py simulated             # three designs, two seeds
    python benchmarks/chromatin.py FILE.h5ad             # genes in X, obsm["peaks"], obs["cell_type"]
    python benchmarks/chromatin.py multivi [FILE.h5ad]   # the same by MultiVI, where scvi-tools is installed

Rows (data, method, seed, purity of 15 neighbours by each column of labels, seconds) are added to
`results/chromatin.csv`. In the simulations genes show three kinds of cells, and peaks three others: there are nine.
"""

from __future__ import annotations

import csv
import sys
import time
from pathlib import Path

import numpy as np
from anndata import AnnData, read_h5ad
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

RESULTS = Path(__file__).parent / "results" / "chromatin.csv"
SEEDS = (1, 2)
DESIGNS = {  # counts of a cell in genes and in peaks, and the standard deviation of log fold changes of a kind
    "equal": (1000, 1000, 0.8),
    "few peaks": (1500, 150, 0.8),
    "few genes": (300, 1500, 0.8),
}


def simulate(n_genes: int, n_peaks: int, fold: float, seed: int) -> AnnData:
    rng = np.random.default_rng(1000 + seed)
    n_cells = 1500
    by_genes, by_peaks = rng.integers(3, size=(2, n_cells))

    def drawn(kind, n_features, depth, theta):
        rate = rng.gamma(0.6, size=n_features) + 0.01
        rate = rate * np.exp(np.where(rng.random((3, n_features)) < 0.15, rng.normal(0, fold, (3, n_features)), 0))
        depths = depth * np.exp(0.4 * rng.normal(size=(n_cells, 1)) - 0.08)
        mean = (rate / rate.sum(1, keepdims=True))[kind] * depths
        return sparse.csr_matrix(rng.poisson(mean * rng.gamma(theta, 1 / theta, mean.shape) if theta else mean))

    adata = AnnData(drawn(by_genes, 1000, n_genes, 2.0).astype(np.float32))
    adata.obsm["peaks"] = drawn(by_peaks, 6000, n_peaks, 0)
    for name, kind in (("genes", by_genes), ("peaks", by_peaks), ("both", 3 * by_genes + by_peaks)):
        adata.obs[name] = kind.astype(str)
    return adata


def purity(embedding: np.ndarray, label: np.ndarray) -> float:
    near = NearestNeighbors(n_neighbors=16).fit(embedding).kneighbors(return_distance=False)[:, 1:]
    return float((label[near] == label[:, None]).mean())


def scaled(embedding: np.ndarray) -> np.ndarray:
    return embedding / np.sqrt(embedding.var(0).sum())


def embeddings(adata: AnnData, seed: int):
    """Name and embedding of each method, one after the other."""
    import sc_vaenb

    options = {"layer": None, "mask_var": None, "rng": seed}
    sc_vaenb.tl.vae(adata, **options)
    genes = adata.obsm["X_vae"]
    yield "genes", genes
    sc_vaenb.tl.vae(adata, peaks_key="peaks", **options)
    yield "genes and peaks", adata.obsm["X_vae"]
    peaks = AnnData(sparse.csr_matrix(adata.obsm["peaks"], dtype=np.float32))
    peaks = peaks[:, np.asarray(peaks.X.sum(0)).ravel() > 0].copy()
    yield "peaks, LSI", lsi(peaks.X)
    sc_vaenb.tl.vae(peaks, likelihood="poisson", **options)
    yield "peaks", peaks.obsm["X_vae"]
    yield "side by side", np.hstack([scaled(genes), scaled(peaks.obsm["X_vae"])])
    one = AnnData(sparse.hstack([adata.X, peaks.X], format="csr"))
    sc_vaenb.tl.vae(one, **options)
    yield "one matrix", one.obsm["X_vae"]


def lsi(counts: sparse.csr_matrix) -> np.ndarray:
    """Latent semantic indexing, as Signac does it: TF-IDF, singular vectors, without the first, which is depth."""
    from sklearn.decomposition import TruncatedSVD

    is_open = sparse.csr_array(counts > 0).astype(np.float64)
    share = sparse.diags_array(1 / np.maximum(is_open.sum(1), 1)) @ is_open
    rare = sparse.diags_array(is_open.shape[0] / np.maximum(is_open.sum(0), 1))
    weights = sparse.csr_array(share @ rare)
    weights.data = np.log1p(1e4 * weights.data)
    found = TruncatedSVD(31, random_state=0).fit_transform(sparse.csr_matrix(weights))
    return (found / found.std(0))[:, 1:]


def multivi(adata: AnnData, seed: int):
    import scvi

    scvi.settings.seed = seed
    both = AnnData(sparse.hstack([adata.X, adata.obsm["peaks"]], format="csr").astype(np.float32), obs=adata.obs)
    both.obs["modality"] = "paired"
    scvi.model.MULTIVI.setup_anndata(both, batch_key="modality")
    n_peaks = adata.obsm["peaks"].shape[1]
    model = scvi.model.MULTIVI(both, n_genes=adata.n_vars, n_regions=n_peaks)
    model.train()
    yield f"MultiVI {scvi.__version__}", model.get_latent_representation()


def main(arguments: list[str]) -> None:
    peer = arguments[0] == "multivi"
    files = [name for name in arguments if name.endswith(".h5ad")]
    if files:
        data = {Path(name).stem: (lambda seed, name=name: read_h5ad(name)) for name in files}
    else:
        data = {name: (lambda seed, design=design: simulate(*design, seed)) for name, design in DESIGNS.items()}
    for name, make in data.items():
        for seed in SEEDS:
            adata, start = make(seed), time.perf_counter()
            labels = ["cell_type"] if files else ["genes", "peaks", "both"]
            for method, embedding in (multivi if peer else embeddings)(adata, seed):
                seconds, found = (
                    time.perf_counter() - start,
                    [purity(embedding, adata.obs[c].to_numpy()) for c in labels],
                )
                row = [
                    name,
                    method,
                    seed,
                    *(f"{value:.3f}" for value in found),
                    *[""] * (3 - len(found)),
                    f"{seconds:.0f}",
                ]
                print(*row, flush=True)
                with RESULTS.open("a", newline="") as file:
                    csv.writer(file).writerow(row)
                start = time.perf_counter()


if __name__ == "__main__":
    main(sys.argv[1:])
