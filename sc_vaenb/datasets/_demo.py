"""Real cells with a known batch effect."""

from __future__ import annotations

import warnings
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse as sp

from .._checks import checked
from .._session import own_state, shared

if TYPE_CHECKING:
    from anndata import AnnData

EFFICIENCY_SPREAD = 0.5  # logit sd of the capture efficiency; same-batch share of PCA neighbours 0.6 (chance 0.33)


@own_state()
@checked
def demo(n_batches: int = 3, *, rng: int | np.random.Generator | None = 0) -> AnnData:
    """Real blood cells, split into batches with a known, gene-specific batch effect.

    The 700 cells and 765 genes of `scanpy.datasets.pbmc68k_reduced` come with scanpy, so nothing is downloaded. Before
    scanpy 1.13 they come as log-normalised values, from which the counts are recovered exactly. Each cell is assigned
    to one batch at random, evenly within each published label; batch b then keeps each molecule of gene g with
    probability `efficiency[b, g]` (binomial thinning). So biology and noise are real, the batch effect is known, and
    label and batch are independent. A gene (or cell) that is left without any count is dropped.

    Parameters
    ----------
    n_batches
        Number of batches, 1 to 26. One batch is thinned as well.
    rng
        Seed or generator; the same seed gives the same data. NumPy's global state is neither read nor changed.

    Returns
    -------
    AnnData with

    `X`
        raw counts after thinning, CSR float32, integers only (cells x genes); no layer is made.
    `obs["cell_type"]`
        the label published with the cells (10 types, from 8 to 240 cells).
    `obs["batch"]`
        `chip A`, `chip B`, ...; their codes are the rows of `efficiency`.
    `obs["n_molecules"]`, `var["n_molecules"]`
        counts of the cell or gene before thinning.
    `uns["truth"]`
        `efficiency` (batches x genes of this object; share of the molecules kept, logit-normal over genes around 0.5)
        and `rng` (as a string).
    `uns["source"]`
        where the cells come from.

    Raises
    ------
    TypeError, ValueError
        If a parameter is of the wrong type or out of range, or if scanpy's file is not the one known here.

    See Also
    --------
    sc_vaenb.datasets.simulate : Counts of simulated cells.
    sc_vaenb.datasets.hcc : A large published data set.

    References
    ----------
    .. [1] Zheng et al. (2017), Massively parallel digital transcriptional profiling of single cells, Nature
       Communications 8:14049.
    """
    import pandas as pd
    from anndata import AnnData

    generator = np.random.default_rng(rng)
    counts, labels, genes = _pbmc_counts()

    # Batches are assigned in turn to cells sorted by label: evenly within each label, and over all cells.
    batch = np.empty(len(labels), dtype=int)
    order = np.lexsort((generator.random(len(labels)), labels.cat.codes))
    batch[order] = np.arange(len(labels)) % n_batches

    efficiency = 1 / (1 + np.exp(-generator.normal(0, EFFICIENCY_SPREAD, (n_batches, len(genes)))))
    row, col, molecules = sp.find(counts)
    drawn = np.lexsort((-col, row))  # the order in scanpy 1.11's file: a seed gives the same data with every scanpy
    row, col = row[drawn], col[drawn]
    kept = generator.binomial(molecules[drawn], efficiency[batch[row], col])
    x = sp.csr_matrix((kept.astype(np.float32), (row, col)), shape=counts.shape)
    x.sum_duplicates()  # nothing to sum, but it sorts the columns, which scipy 1.13 has not done
    x.eliminate_zeros()
    has_counts_cell, has_counts_gene = np.asarray(x.getnnz(axis=1)) > 0, np.asarray(x.getnnz(axis=0)) > 0

    chips = [f"chip {letter}" for letter in ascii_uppercase[:n_batches]]
    obs = {
        "cell_type": labels.array,
        "batch": pd.Categorical.from_codes(batch, chips),
        "n_molecules": np.asarray(counts.sum(axis=1)).ravel(),
    }
    var = {"n_molecules": np.asarray(counts.sum(axis=0)).ravel()}
    source = (
        "10x Genomics, Fresh 68k PBMCs (Donor A); Zheng et al. 2017, doi:10.1038/ncomms14049; the 700 cells and 765 "
        "genes of scanpy.datasets.pbmc68k_reduced; counts thinned by batch with sc_vaenb.datasets.demo"
    )
    return AnnData(
        x[has_counts_cell][:, has_counts_gene],
        obs=pd.DataFrame(obs, index=labels.index)[has_counts_cell],
        var=pd.DataFrame(var, index=genes)[has_counts_gene],
        uns={"truth": {"efficiency": efficiency[:, has_counts_gene], "rng": str(rng)}, "source": source},
    )


def _pbmc_counts() -> tuple[sp.csr_matrix, Any, Any]:
    """The integer counts behind `scanpy.datasets.pbmc68k_reduced`, its labels (Series) and gene names (Index)."""
    import scanpy as sc
    from anndata import OldFormatWarning

    with shared(), warnings.catch_warnings():  # the file is old, and anndata 0.13 uses a deprecated option of pandas 3
        warnings.simplefilter("ignore", OldFormatWarning)
        warnings.filterwarnings("ignore", category=FutureWarning, module="anndata")
        warnings.filterwarnings("ignore", message=".*future.infer_string")
        pbmc = sc.datasets.pbmc68k_reduced()

    # from scanpy 1.13 the file holds the counts, and with its preset for scanpy 2 there is no raw
    counts = sp.csr_matrix(pbmc.layers["counts"]) if "counts" in pbmc.layers else _counts_of_raw(pbmc)
    return counts.astype(np.int64), pbmc.obs["bulk_labels"].rename_axis(None), pbmc.var_names.rename(None)


def _counts_of_raw(pbmc: AnnData) -> sp.csr_matrix:
    """Counts from `raw`, which holds log1p(count * 10,000 / n_counts), rounded to three decimals.

    Counts that reproduce these decimals are the true ones: neighbouring integers differ by more than 0.003 at the
    largest count (259).
    """
    logged = sp.csr_matrix(pbmc.raw.X, dtype=np.float64)
    scale = np.repeat(1e4 / pbmc.obs["n_counts"].to_numpy(dtype=np.float64), np.diff(logged.indptr))
    counts = logged.copy()
    counts.data = np.rint(np.expm1(logged.data) / scale)
    error = np.abs(np.log1p(counts.data * scale) - logged.data).max()
    if not error < 0.00051:
        raise ValueError(
            "scanpy.datasets.pbmc68k_reduced().raw.X is not log1p of counts per 10,000: integer counts miss its values "
            f"by up to {error:.3g} (0.0005 expected). This scanpy ships another file; install scanpy 1.11 or 1.12."
        )
    return counts
