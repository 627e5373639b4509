"""Count data whose truth is known: a simulation, and real cells with a known batch effect."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse as sp

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import ArrayLike, NDArray

__all__ = ["demo", "simulate"]

BASE_SPREAD = 1.2  # log sd of a gene's expression over genes; detected genes of 10x data lie around 1.0 to 1.5
THETA_SPREAD = 0.5  # log sd of theta over genes
EFFICIENCY_SPREAD = 0.5  # logit sd of demo's capture efficiency; same-batch share of PCA neighbours 0.6 (chance 0.33)
BLOCK = 2**22  # dense values held at once while drawing; changing it changes the draws of large simulations
ATTEMPTS = 1000  # draws before a cell or gene without counts is an error


def simulate(
    n_cells: int = 1000,
    n_genes: int = 500,
    *,
    n_types: int = 5,
    n_batches: int = 2,
    composition: ArrayLike | None = None,
    marker_share: float = 0.3,
    marker_fold: float = 4.0,
    batch_strength: float = 0.3,
    mean_depth: float | Sequence[float] = 1000.0,
    depth_spread: float = 0.3,
    theta: float = 2.0,
    dropout: float = 0.0,
    rng: int | np.random.Generator | None = 0,
) -> AnnData:
    """Negative-binomial counts of known cell types in known batches.

    The count of gene g in cell i, of type t in batch b, is drawn as ::

        mu[i, g] = depth_factor[i] * exp(type_log_rate[t, g] + batch_log_effect[b, g])
        x[i, g] ~ NB(mean=mu[i, g], variance=mu[i, g] + mu[i, g] ** 2 / theta[g])

    and then set to zero with probability `dropout`. Genes differ in expression (log-normal, log sd 1.2); each type has
    its own marker genes, expressed `marker_fold` times as strongly as elsewhere. A batch effect changes the profile,
    not the depth: each batch keeps the total of the average profile; depth is set by `mean_depth` alone.

    No cell is empty and no gene is zero everywhere: a cell or gene drawn so is drawn again, keeping its parameters.
    Where that is common (expected total of a cell or gene below about 5), it lifts the means above the truth.

    Parameters
    ----------
    n_cells, n_genes
        Number of cells and genes. Memory follows the non-zero counts, so large numbers are fine.
    n_types, n_batches
        Number of cell types and batches.
    composition
        Relative number of cells of each batch and type, shape (n_batches, n_types), normalised over the whole table;
        each entry is met to within one cell. None: all equal. A zero makes a type absent from a batch; the
        identity confounds type and batch; unequal rows or columns give unequal batches or rare types.
    marker_share
        Share of the genes that mark a type, split evenly between the types (rounded down). 0: all types are alike.
    marker_fold
        Expression of a marker in its own type relative to the other types, before each type is scaled to one depth.
    batch_strength
        Standard deviation over genes of the (natural) log fold of one batch, before centring over batches; two batches
        differ by `sqrt(2) * batch_strength`. 0, or a single batch: no batch effect.
    mean_depth
        Expected counts of a cell before dropout: one number, or one for each batch.
    depth_spread
        Standard deviation of the log depth of the cells of a batch.
    theta
        Median over genes of the inverse dispersion (log-normal over genes, log sd 0.5); large values approach Poisson.
    dropout
        Probability, in [0, 1), that a count is lost, independent of cell, gene and count.
    rng
        Seed or generator; the same seed gives the same data. NumPy's global state is neither read nor changed.

    Returns
    -------
    AnnData with

    `X`
        raw counts, CSR float32, integers only (cells x genes); no layer is made.
    `obs["cell_type"]`, `obs["batch"]`
        categories `type_0`, ... and `batch_0`, ...; their codes are the rows of the arrays in `uns["truth"]`.
    `obs["depth_factor"]`
        true size factor, 1 for a cell of the mean depth over batches.
    `var["theta"]`
        true inverse dispersion.
    `var["is_marker"]`, `var["marker_of"]`
        whether the gene marks a type, and which (missing for the other genes).
    `uns["truth"]`
        `type_log_rate` (types x genes; log expected counts at depth factor 1), `batch_log_effect` (batches x genes;
        natural log fold), `mean_depth` (batches), `composition` (batches x types; number of cells), `dropout`, and
        `rng` (as a string).

    Raises
    ------
    TypeError, ValueError
        If a parameter is of the wrong type or out of range, if a type or batch would get no cell, or if the depth is
        too low to give each cell and gene a count.

    Examples
    --------
    >>> import sc_vaenb
    >>> only_in_batch_0 = [[1, 1, 1], [1, 1, 0]]  # type_2 was not sampled in batch_1
    >>> adata = sc_vaenb.datasets.simulate(n_types=3, composition=only_in_batch_0)
    """
    import pandas as pd
    from anndata import AnnData

    for name, value in {"n_cells": n_cells, "n_genes": n_genes, "n_types": n_types, "n_batches": n_batches}.items():
        _check_whole(name, value)
    _check_number("marker_share", marker_share, 0, 1)
    _check_number("marker_fold", marker_fold, 1)
    _check_number("batch_strength", batch_strength, 0)
    _check_number("depth_spread", depth_spread, 0)
    _check_number("theta", theta, 0, open_low=True)
    _check_number("dropout", dropout, 0, 1, open_high=True)
    shares = _check_table("composition", 1 if composition is None else composition, (n_batches, n_types))
    depth = _check_table("mean_depth", mean_depth, (n_batches,))
    if depth.min() == 0:
        raise ValueError("mean_depth is 0 for a batch, so its cells would have no counts: pass positive depths.")
    n_markers = int(marker_share * n_genes) // n_types
    if marker_share > 0 and n_markers == 0:
        raise ValueError(
            f"marker_share={marker_share} of n_genes={n_genes} leaves no marker gene for each of n_types={n_types}: "
            "raise marker_share or n_genes, or pass marker_share=0 for types that are all alike."
        )
    generator = _generator(rng)

    # Evenly spaced points on the cumulative shares: right to within a cell, and nothing where the share is 0.
    points = (np.arange(n_cells) + 0.5) / n_cells
    cells = generator.permutation(np.searchsorted(np.cumsum(shares.ravel()) / shares.sum(), points, side="right"))
    batch, cell_type = np.divmod(cells, n_types)
    n_of = np.bincount(cells, minlength=shares.size).reshape(shares.shape)
    for what, totals in {"batch": n_of.sum(axis=1), "type": n_of.sum(axis=0)}.items():
        if (totals == 0).any():
            raise ValueError(
                f"{what}_{totals.argmin()} gets none of the {n_cells} cells: raise n_cells, or give the {what} "
                "a larger share in composition."
            )

    marker_of = np.full(n_genes, -1)
    marker_of[generator.permutation(n_genes)[: n_markers * n_types]] = np.repeat(np.arange(n_types), n_markers)
    own = marker_of == np.arange(n_types)[:, None]
    type_log_rate = generator.normal(0, BASE_SPREAD, n_genes) + own * math.log(marker_fold)
    type_log_rate += math.log(depth.mean()) - np.log(np.exp(type_log_rate).sum(axis=1, keepdims=True))
    effect = generator.normal(0, batch_strength, (n_batches, n_genes))
    effect -= effect.mean(axis=0)
    profile = np.exp(type_log_rate).mean(axis=0)
    effect -= np.log(np.exp(effect) @ profile / profile.sum())[:, None]
    thetas = theta * np.exp(generator.normal(0, THETA_SPREAD, n_genes))
    # Mean 1 for each batch before the batch's own depth: E[exp(N(-s^2 / 2, s))] = 1.
    factor = generator.lognormal(-(depth_spread**2) / 2, depth_spread, n_cells) * (depth / depth.mean())[batch]
    rate = np.exp(type_log_rate + effect[:, None, :])  # batches x types x genes

    def draw(rows: NDArray[np.intp], genes: NDArray[np.intp]) -> NDArray[np.float32]:
        mean = factor[rows, None] * rate[batch[rows, None], cell_type[rows, None], genes]
        counts = generator.poisson(generator.gamma(thetas[genes], mean / thetas[genes]))
        if dropout > 0:
            counts[generator.random(counts.shape) < dropout] = 0
        return counts.astype(np.float32)

    every_cell, every_gene = np.arange(n_cells), np.arange(n_genes)
    blocks = np.array_split(every_cell, math.ceil(n_cells * n_genes / BLOCK))
    x = sp.vstack([sp.csr_matrix(_without_empty(lambda i: draw(i, every_gene), b, "cell")) for b in blocks], "csr")
    silent = every_gene[np.asarray(x.getnnz(axis=0)) == 0]
    if silent.size:
        drawn = sp.coo_matrix(_without_empty(lambda g: draw(every_cell, g).T, silent, "gene"))
        x = sp.csr_matrix(x + sp.csr_matrix((drawn.data, (drawn.col, silent[drawn.row])), x.shape))
        x.sort_indices()

    types = [f"type_{i}" for i in range(n_types)]
    obs = {
        "cell_type": pd.Categorical.from_codes(cell_type, types),
        "batch": pd.Categorical.from_codes(batch, [f"batch_{i}" for i in range(n_batches)]),
        "depth_factor": factor,
    }
    var = {"theta": thetas, "is_marker": marker_of >= 0, "marker_of": pd.Categorical.from_codes(marker_of, types)}
    truth = {
        "type_log_rate": type_log_rate,
        "batch_log_effect": effect,
        "mean_depth": depth,
        "composition": n_of,
        "dropout": float(dropout),
        "rng": str(rng),
    }
    return AnnData(
        x,
        obs=pd.DataFrame(obs, index=[f"cell_{i}" for i in range(n_cells)]),
        var=pd.DataFrame(var, index=[f"gene_{i}" for i in range(n_genes)]),
        uns={"truth": truth},
    )


def demo(n_batches: int = 3, *, rng: int | np.random.Generator | None = 0) -> AnnData:
    """Real blood cells, split into batches with a known, gene-specific batch effect.

    The 700 cells and 765 genes of `scanpy.datasets.pbmc68k_reduced` come with scanpy, so nothing is downloaded. Their
    counts are recovered exactly from the log-normalised values. Each cell is dealt to one batch at random, evenly
    within each published label; batch b then keeps each molecule of gene g with probability `efficiency[b, g]`
    (binomial thinning). So biology and noise are real, the batch effect is known, and there is none between label
    and batch. A gene (or cell) that is left without any count is dropped.

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

    References
    ----------
    Zheng et al. (2017), Massively parallel digital transcriptional profiling of single cells, Nature Communications 8,
    14049. https://doi.org/10.1038/ncomms14049
    """
    import pandas as pd
    from anndata import AnnData

    _check_whole("n_batches", n_batches, high=len(ascii_uppercase))
    generator = _generator(rng)
    counts, labels, genes = _pbmc_counts()

    # Dealt like cards from a deck sorted by label: even within each label, and over all cells.
    batch = np.empty(len(labels), dtype=int)
    deck = np.lexsort((generator.random(len(labels)), labels.cat.codes))
    batch[deck] = np.arange(len(labels)) % n_batches

    efficiency = 1 / (1 + np.exp(-generator.normal(0, EFFICIENCY_SPREAD, (n_batches, len(genes)))))
    kept = counts.tocoo()
    kept.data = generator.binomial(kept.data, efficiency[batch[kept.row], kept.col]).astype(np.float32)
    x = sp.csr_matrix(kept)
    x.eliminate_zeros()
    with_cell, with_gene = np.asarray(x.getnnz(axis=1)) > 0, np.asarray(x.getnnz(axis=0)) > 0

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
        x[with_cell][:, with_gene],
        obs=pd.DataFrame(obs, index=labels.index)[with_cell],
        var=pd.DataFrame(var, index=genes)[with_gene],
        uns={"truth": {"efficiency": efficiency[:, with_gene], "rng": str(rng)}, "source": source},
    )


def _pbmc_counts() -> tuple[sp.csr_matrix, Any, Any]:
    """The integer counts behind `scanpy.datasets.pbmc68k_reduced`, its labels (Series) and gene names (Index)."""
    import scanpy as sc
    from anndata import OldFormatWarning

    with warnings.catch_warnings():  # an old file; and anndata 0.13 asks pandas 3 for a deprecated option
        warnings.simplefilter("ignore", OldFormatWarning)
        warnings.filterwarnings("ignore", category=FutureWarning, module="anndata")
        warnings.filterwarnings("ignore", message=".*future.infer_string")
        pbmc = sc.datasets.pbmc68k_reduced()

    # The file holds log1p(count * 10,000 / n_counts), rounded to three decimals. Counts that give these very decimals
    # again are the true ones: neighbouring integers differ by more than 0.003 at the largest count (259).
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
    counts.data = counts.data.astype(np.int64)
    return counts, pbmc.obs["bulk_labels"].rename_axis(None), pbmc.raw.var_names.rename(None)


def _without_empty(
    draw: Callable[[NDArray[np.intp]], NDArray[np.float32]], index: NDArray[np.intp], what: str
) -> NDArray[np.float32]:
    """Rows `draw(index)`, those without a count drawn again."""
    rows = draw(index)
    for _ in range(ATTEMPTS):
        empty = np.flatnonzero(~rows.any(axis=1))
        if empty.size == 0:
            return rows
        rows[empty] = draw(index[empty])
    raise ValueError(
        f"{what}_{index[empty[0]]} has no count after {ATTEMPTS} draws: raise mean_depth (or n_cells or theta), or "
        "lower dropout."
    )


def _generator(rng: int | np.random.Generator | None) -> np.random.Generator:
    if isinstance(rng, bool) or not (rng is None or isinstance(rng, int | np.integer | np.random.Generator)):
        raise TypeError(
            f"rng must be an int, a numpy.random.Generator or None, found {rng!r}: pass a seed such as 0, or "
            "numpy.random.default_rng(0)."
        )
    if isinstance(rng, int | np.integer) and rng < 0:
        raise ValueError(f"rng must not be negative, found {rng}: pass a seed such as 0.")
    return np.random.default_rng(rng)


def _check_whole(name: str, value: Any, high: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be a whole number, found {value!r}: pass an int.")
    if value < 1 or (high is not None and value > high):
        wanted = "at least 1" if high is None else f"from 1 to {high}"
        raise ValueError(f"{name} must be {wanted}, found {value}.")


def _check_number(
    name: str, value: Any, low: float, high: float = math.inf, *, open_low: bool = False, open_high: bool = False
) -> None:
    if isinstance(value, bool) or not isinstance(value, float | int | np.floating | np.integer):
        raise TypeError(f"{name} must be a number, found {value!r}.")
    inside = math.isfinite(value) and low <= value <= high
    if not inside or (open_low and value == low) or (open_high and value == high):
        wanted = f"{'above' if open_low else 'at least'} {low}"
        if high < math.inf:
            wanted += f" and {'below' if open_high else 'at most'} {high}"
        raise ValueError(f"{name} must be finite, {wanted}; found {value}.")


def _check_table(name: str, value: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """`value` as a float array of this shape (a single number is repeated): finite, not negative, not all zero."""
    try:
        table = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must hold numbers, found {value!r}.") from None
    if table.ndim == 0:
        table = np.full(shape, table)
    if table.shape != shape:
        axes = " x ".join(["n_batches", "n_types"][: len(shape)])
        raise ValueError(f"{name} must have shape {shape} ({axes}), found {table.shape}: pass one number for each.")
    if not np.isfinite(table).all() or table.min() < 0 or table.max() == 0:
        raise ValueError(f"{name} must hold finite numbers, none negative and not all zero; found {table.tolist()}.")
    return table
