"""Labels of cells with peaks alone, from a multiome as reference: `docs/chromatin.md`.

    python benchmarks/chromatin_mapping.py                        # the simulated designs of `chromatin.py`, two seeds
    python benchmarks/chromatin_mapping.py FILE.h5ad LABEL BATCH  # each third of the batches of a multiome in turn

The query is mapped with all its counts, with genes alone, and with peaks alone. The plain ways embed the peaks of all
cells, and the 15 nearest reference cells vote. Rows (data, query, method, accuracy, stated confidence) are added to
`results/chromatin_mapping.csv`.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from anndata import AnnData, read_h5ad
from chromatin import DESIGNS, lsi, measured_peaks, simulate
from scipy import sparse
from sklearn.neighbors import KNeighborsClassifier

RESULTS = Path(__file__).parent / "results" / "chromatin_mapping.csv"
SEEDS = (3, 4)
N_QUERY = 500  # of the 1,500 simulated cells
N_PARTS = 3  # of the batches of a file


def accuracies(adata: AnnData, query: np.ndarray, label: str, batch: str | None):
    """Name of each method, share of right labels of the query, and mean stated confidence (NaN where there is none)."""
    import sc_vaenb

    options = {"layer": None, "mask_var": None}
    reference = adata[~query].copy()
    if batch is None:
        sc_vaenb.tl.vae(reference, peaks_key="peaks", **options)
    else:
        sc_vaenb.tl.cvae(reference, batch, peaks_key="peaks", **options)
    truth = adata.obs[label].astype(str).to_numpy()
    for measured in ("genes and peaks", "genes", "peaks"):
        cells = adata[query].copy()
        if measured == "genes":
            del cells.obsm["peaks"]
        if measured == "peaks":
            cells.X = sparse.csr_matrix(cells.shape, dtype=np.float32)
        sc_vaenb.tl.map_query(cells, reference, label_key=label)
        right = cells.obs[f"{label}_predicted"].astype(str).to_numpy() == truth[query]
        yield f"map_query, {measured}", right.mean(), float(cells.obs[f"{label}_confidence"].mean())
    peaks = measured_peaks(adata)
    sc_vaenb.tl.vae(peaks, likelihood="poisson", **options)
    for method, embedding in (("peaks, Poisson VAE", peaks.obsm["X_vae"]), ("peaks, LSI", lsi(peaks.X))):
        voters = KNeighborsClassifier(15).fit(embedding[~query], truth[~query])
        yield method, float((voters.predict(embedding[query]) == truth[query]).mean()), np.nan


def cases(arguments: list[str]):
    """Name of the data, the cells, which of them are the query, the label, and the batch."""
    if not arguments:
        for name, design in DESIGNS.items():
            for seed in SEEDS:
                adata = simulate(*design, seed)
                yield f"{name}, seed {seed}", adata, np.arange(adata.n_obs) < N_QUERY, "peaks", None
        return
    file, label, batch = arguments
    adata = read_h5ad(file)
    for part in np.array_split(adata.obs[batch].unique().astype(str), N_PARTS):
        yield f"{Path(file).stem}, {' '.join(part)}", adata, adata.obs[batch].isin(part).to_numpy(), label, batch


def main(arguments: list[str]) -> None:
    for name, adata, query, label, batch in cases(arguments):
        for method, accuracy, confidence in accuracies(adata, query, label, batch):
            row = [name, method, f"{accuracy:.3f}", f"{confidence:.3f}"]
            print(*row, flush=True)
            with RESULTS.open("a", newline="") as file:
                csv.writer(file, lineterminator="\n").writerow(row)


if __name__ == "__main__":
    main(sys.argv[1:])
