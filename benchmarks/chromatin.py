"""Genes and open chromatin: which kinds of cells do the neighbours in an embedding show? `docs/chromatin.md`.

    python benchmarks/chromatin.py                              # three simulated designs
    python benchmarks/chromatin.py FILE.h5ad                    # genes in X, obsm["peaks"], obs["cell_type"]
    python benchmarks/chromatin.py [FILE.h5ad] --peer multivi   # or peakvi, poissonvi, wnn

The peers need other packages: scvi-tools; muon for wnn. They run with their own defaults, without batches, as `tl.vae`
does here. Rows (data, method, seed, purity of 15 neighbours by each column of labels, seconds) are added to
`results/chromatin.csv`. In the simulations genes show three kinds of cells, and peaks three others: there are nine.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from anndata import AnnData, read_h5ad
from numpy.typing import NDArray
from scipy import sparse
from sklearn.neighbors import NearestNeighbors

RESULTS = Path(__file__).parent / "results" / "chromatin.csv"
N_NEIGHBORS = 15
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


def purity(found: Any, label: np.ndarray) -> float:
    """Share of the nearest neighbours, in an embedding or a sparse graph of distances, that are of the own kind."""
    if sparse.issparse(found):
        shape = found.shape[0], -1  # as many neighbours of each cell
        nearest = np.argsort(found.data.reshape(shape), 1)[:, :N_NEIGHBORS]
        near = np.take_along_axis(found.indices.reshape(shape), nearest, 1)
    else:
        near = NearestNeighbors(n_neighbors=N_NEIGHBORS).fit(found).kneighbors(return_distance=False)
    return float((label[near] == label[:, None]).mean())


def scaled(embedding: np.ndarray) -> np.ndarray:
    return embedding / np.sqrt(embedding.var(0).sum())


def embeddings(adata: AnnData, seed: int) -> Iterator[tuple[str, NDArray]]:
    """Name and embedding of each method, one after the other."""
    import sc_vaenb

    options = {"layer": None, "mask_var": None, "rng": seed}
    sc_vaenb.tl.vae(adata, **options)
    genes = adata.obsm["X_vae"]
    yield "genes", genes
    sc_vaenb.tl.vae(adata, peaks_key="peaks", **options)
    yield "genes and peaks", adata.obsm["X_vae"]
    peaks = measured_peaks(adata)
    yield "peaks, LSI", lsi(peaks.X)
    sc_vaenb.tl.vae(peaks, likelihood="poisson", **options)
    yield "peaks", peaks.obsm["X_vae"]
    yield "side by side", np.hstack([scaled(genes), scaled(peaks.obsm["X_vae"])])
    one = AnnData(sparse.hstack([adata.X, peaks.X], format="csr"))
    sc_vaenb.tl.vae(one, **options)
    yield "one matrix", one.obsm["X_vae"]


def measured_peaks(adata: AnnData) -> AnnData:
    peaks = AnnData(sparse.csr_matrix(adata.obsm["peaks"], dtype=np.float32), obs=adata.obs[[]])
    return peaks[:, np.asarray(peaks.X.sum(0)).ravel() > 0].copy()


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


def multivi(adata: AnnData, seed: int, minutes: float) -> Iterator[tuple[str, NDArray]]:
    import scvi
    from mudata import MuData

    both = MuData({"rna": AnnData(adata.X, obs=adata.obs[[]]), "atac": measured_peaks(adata)})
    scvi.model.MULTIVI.setup_mudata(both, modalities={"rna_layer": "rna", "atac_layer": "atac"})
    yield trained(scvi.model.MULTIVI, both, seed, minutes)


def poissonvi(adata: AnnData, seed: int, minutes: float) -> Iterator[tuple[str, NDArray]]:
    import scvi

    peaks = measured_peaks(adata)
    scvi.external.POISSONVI.setup_anndata(peaks)
    yield trained(scvi.external.POISSONVI, peaks, seed, minutes)


def peakvi(adata: AnnData, seed: int, minutes: float) -> Iterator[tuple[str, NDArray]]:
    import scvi

    peaks = measured_peaks(adata)  # its likelihood, Bernoulli, takes counts above 0 as 1
    scvi.model.PEAKVI.setup_anndata(peaks)
    yield trained(scvi.model.PEAKVI, peaks, seed, minutes)


def trained(model_class: Any, data: Any, seed: int, minutes: float) -> tuple[str, NDArray]:
    """Name and version of a model of scvi-tools, with its number of epochs if time was up, and its embedding."""
    import scvi

    scvi.settings.seed = seed
    model, start = model_class(data), time.perf_counter()
    model.train(max_time={"seconds": 60 * minutes}, enable_progress_bar=False)
    epochs = f"{model.trainer.current_epoch} epochs"
    print(epochs, end=" ")
    is_cut = time.perf_counter() - start >= 60 * minutes
    name = f"{model_class.__name__} {scvi.__version__}" + f", cut after {epochs}" * is_cut
    return name, model.get_latent_representation()


def wnn(adata: AnnData, seed: int, minutes: float) -> Iterator[tuple[str, Any]]:
    """Weighted nearest neighbours (Hao et al. 2021) of PCA and LSI.

    Of the forms that muon describes, this one was best on the designs of "What was tried" of the page: genes are not
    scaled, and cells have unit length.
    """
    import muon
    import scanpy as sc
    from mudata import MuData
    from sklearn.preprocessing import normalize

    rna, atac = AnnData(adata.X.copy(), obs=adata.obs[[]]), measured_peaks(adata)
    sc.pp.normalize_total(rna, target_sum=1e4)
    sc.pp.log1p(rna)
    sc.pp.pca(rna, random_state=seed)
    muon.atac.pp.tfidf(atac, scale_factor=1e4)
    muon.atac.tl.lsi(atac)
    atac.obsm["X_lsi"] = atac.obsm["X_lsi"][:, 1:]  # the first is depth
    for part, key in ((rna, "X_pca"), (atac, "X_lsi")):
        part.obsm[key] = normalize(part.obsm[key])
        sc.pp.neighbors(part, n_neighbors=N_NEIGHBORS + 1, use_rep=key, random_state=seed)
    both = MuData({"rna": rna, "atac": atac})
    muon.pp.neighbors(both, n_neighbors=N_NEIGHBORS, random_state=seed)
    yield f"WNN of PCA and LSI, muon {muon.__version__}", both.obsp["distances"]


PEERS = {"multivi": multivi, "peakvi": peakvi, "poissonvi": poissonvi, "wnn": wnn}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?")
    parser.add_argument("--peer", choices=PEERS)
    parser.add_argument("--minutes", type=float, default=60.0, help="limit of a fit of scvi-tools")
    parser.add_argument("--designs", nargs="+", choices=DESIGNS, default=list(DESIGNS))
    parser.add_argument("--seeds", type=int, nargs="+", default=(1, 2))
    options = parser.parse_args()
    data = {Path(options.file).stem: None} if options.file else {name: DESIGNS[name] for name in options.designs}
    for name, design in data.items():
        for seed in options.seeds:
            adata = simulate(*design, seed) if design else read_h5ad(options.file)
            labels = ["genes", "peaks", "both"] if design else ["cell_type"]
            methods = PEERS[options.peer](adata, seed, options.minutes) if options.peer else embeddings(adata, seed)
            start = time.perf_counter()
            for method, found in methods:
                seconds = time.perf_counter() - start
                purities = [f"{purity(found, adata.obs[label].to_numpy()):.3f}" for label in labels]
                row = [name, method, seed, *purities, *[""] * (3 - len(purities)), f"{seconds:.0f}"]
                print(*row, flush=True)
                with RESULTS.open("a", newline="") as file:
                    csv.writer(file, lineterminator="\n").writerow(row)
                start = time.perf_counter()


if __name__ == "__main__":
    main()
