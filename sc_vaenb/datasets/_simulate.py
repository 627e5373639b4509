"""Counts of known cell types in known batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse as sp

from .._checks import checked
from .._session import own_state

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import ArrayLike, NDArray

BASE_SPREAD = 1.2  # log sd of expression over genes; for detected genes of 10x data it is about 1.0 to 1.5
LARGEST_COUNT = 2**24  # beyond, not every integer is a float32
THETA_SPREAD = 0.5  # log sd of theta over genes
BLOCK = 2**22  # dense values in memory while drawing; another value changes the draws of large simulations
ATTEMPTS = 1000  # draws for a cell or gene without counts before an error is raised


@own_state()
@checked
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

    No cell and no gene is without counts: such a cell or gene is drawn again with the same parameters. If this happens
    often (expected total of a cell or gene below about 5), it raises the means above the truth.

    The parameters are in three groups:

    - how much: `n_cells` to `n_batches`
    - what the cells are like: `composition` to `dropout`
    - the seed: `rng`

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

    See Also
    --------
    sc_vaenb.datasets.demo : Real cells with a known batch effect.
    sc_vaenb.tl.sample : Cells from a fitted model.

    Examples
    --------
    >>> import sc_vaenb
    >>> only_in_batch_0 = [[1, 1, 1], [1, 1, 0]]  # type_2 was not sampled in batch_1
    >>> adata = sc_vaenb.datasets.simulate(n_types=3, composition=only_in_batch_0)
    """
    import pandas as pd
    from anndata import AnnData

    shares = _table("composition", 1 if composition is None else composition, (n_batches, n_types))
    depth = _table("mean_depth", mean_depth, (n_batches,))
    n_markers = int(marker_share * n_genes) // n_types
    if marker_share > 0 and n_markers == 0:
        raise ValueError(
            f"marker_share={marker_share} of n_genes={n_genes} leaves no marker gene for each of n_types={n_types}: "
            "raise marker_share or n_genes, or pass marker_share=0 for types that are all alike."
        )
    generator = np.random.default_rng(rng)

    # Evenly spaced points on the cumulative shares: exact to within a cell, and no cell where the share is 0.
    points = (np.arange(n_cells) + 0.5) / n_cells
    cells = generator.permutation(np.searchsorted(np.cumsum(shares.ravel()) / shares.sum(), points, side="right"))
    batch, cell_type = np.divmod(cells, n_types)
    n_cells_of = np.bincount(cells, minlength=shares.size).reshape(shares.shape)
    for kind, totals in {"batch": n_cells_of.sum(axis=1), "type": n_cells_of.sum(axis=0)}.items():
        if (totals == 0).any():
            raise ValueError(
                f"{kind}_{totals.argmin()} gets none of the {n_cells} cells: raise n_cells, or give the {kind} "
                "a larger share in composition."
            )

    marker_of = np.full(n_genes, -1)
    marker_of[generator.permutation(n_genes)[: n_markers * n_types]] = np.repeat(np.arange(n_types), n_markers)
    is_own_marker = marker_of == np.arange(n_types)[:, None]
    type_log_rate = generator.normal(0, BASE_SPREAD, n_genes) + is_own_marker * math.log(marker_fold)
    type_log_rate += math.log(depth.mean()) - np.log(np.exp(type_log_rate).sum(axis=1, keepdims=True))
    batch_log_effect = generator.normal(0, batch_strength, (n_batches, n_genes))
    batch_log_effect -= batch_log_effect.mean(axis=0)
    profile = np.exp(type_log_rate).mean(axis=0)
    batch_log_effect -= np.log(np.exp(batch_log_effect) @ profile / profile.sum())[:, None]
    theta_of_gene = theta * np.exp(generator.normal(0, THETA_SPREAD, n_genes))
    # The log-normal factor has mean 1, E[exp(N(-s^2 / 2, s))] = 1; it is then scaled to the depth of the batch.
    depth_factor = generator.lognormal(-(depth_spread**2) / 2, depth_spread, n_cells) * (depth / depth.mean())[batch]
    rate = np.exp(type_log_rate + batch_log_effect[:, None, :])  # batches x types x genes

    def draw(rows: NDArray[np.intp], genes: NDArray[np.intp]) -> NDArray[np.float32]:
        mean = depth_factor[rows, None] * rate[batch[rows, None], cell_type[rows, None], genes]
        poisson_mean = generator.gamma(theta_of_gene[genes], mean / theta_of_gene[genes])
        if poisson_mean.max() > LARGEST_COUNT:
            raise ValueError(
                f"A count of about {poisson_mean.max():.0e} would be drawn, but float32 holds integers up to "
                f"{LARGEST_COUNT:,} only: lower mean_depth, depth_spread or batch_strength, or raise theta."
            )
        counts = generator.poisson(poisson_mean)
        if dropout > 0:
            counts[generator.random(counts.shape) < dropout] = 0
        return counts.astype(np.float32)

    all_cells, all_genes = np.arange(n_cells), np.arange(n_genes)
    blocks = np.array_split(all_cells, math.ceil(n_cells * n_genes / BLOCK))
    x = sp.vstack([sp.csr_matrix(_without_empty(lambda i: draw(i, all_genes), b, "cell")) for b in blocks], "csr")
    empty_genes = all_genes[np.asarray(x.getnnz(axis=0)) == 0]
    if empty_genes.size:
        drawn = sp.coo_matrix(_without_empty(lambda g: draw(all_cells, g).T, empty_genes, "gene"))
        x = sp.csr_matrix(x + sp.csr_matrix((drawn.data, (drawn.col, empty_genes[drawn.row])), x.shape))
        x.sort_indices()

    types = [f"type_{i}" for i in range(n_types)]
    obs = {
        "cell_type": pd.Categorical.from_codes(cell_type, types),
        "batch": pd.Categorical.from_codes(batch, [f"batch_{i}" for i in range(n_batches)]),
        "depth_factor": depth_factor,
    }
    var = {
        "theta": theta_of_gene,
        "is_marker": marker_of >= 0,
        "marker_of": pd.Categorical.from_codes(marker_of, types),
    }
    truth = {
        "type_log_rate": type_log_rate,
        "batch_log_effect": batch_log_effect,
        "mean_depth": depth,
        "composition": n_cells_of,
        "dropout": float(dropout),
        "rng": str(rng),
    }
    return AnnData(
        x,
        obs=pd.DataFrame(obs, index=[f"cell_{i}" for i in range(n_cells)]),
        var=pd.DataFrame(var, index=[f"gene_{i}" for i in range(n_genes)]),
        uns={"truth": truth},
    )


def _without_empty(
    draw: Callable[[NDArray[np.intp]], NDArray[np.float32]], index: NDArray[np.intp], kind: str
) -> NDArray[np.float32]:
    """Rows of `draw(index)`; rows without counts are drawn again."""
    rows = draw(index)
    for _ in range(ATTEMPTS):
        empty = np.flatnonzero(~rows.any(axis=1))
        if empty.size == 0:
            return rows
        rows[empty] = draw(index[empty])
    raise ValueError(
        f"{kind}_{index[empty[0]]} has no count after {ATTEMPTS} draws: raise mean_depth (or n_cells or theta), or "
        "lower dropout."
    )


def _table(name: str, value: ArrayLike, shape: tuple[int, ...]) -> NDArray[np.float64]:
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
