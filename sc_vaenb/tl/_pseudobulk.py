from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scanpy import logging as logg
from scipy.sparse import csr_matrix

from .. import _adata, _obs
from .._checks import checked
from .._names import codes_of, n_values
from .._session import own_state
from ..data.matrix import ROWS_AT_ONCE, check_values, row_blocks

if TYPE_CHECKING:
    from anndata import AnnData


@own_state()
@checked
def pseudobulk(
    adata: AnnData,
    sample_key: str,
    groups_key: str | Sequence[str] | None = None,
    *,
    layer: str | None = "counts",
    min_cells: int = 10,
    allow_non_integer: bool = False,
) -> AnnData:
    """Sum raw counts over the cells of each sample, or of each sample and group.

    In a comparison of conditions, the replicates are donors, not cells (Squair et al. 2021). The sums are counts too.
    Methods for bulk RNA-seq need such sums: pydeseq2 (Love et al. 2014), edgeR, limma. They contain all genes, not only
    the genes of a model. :func:`sc_vaenb.tl.differential` with `sample_key` computes its own sums and does not need
    this function.

    Parameters
    ----------
    adata
        Cells x genes with raw counts, in memory or backed by a file. It is unchanged.
    sample_key
        Column of `obs` with the sample or donor of each cell.
    groups_key
        Column of `obs`, or several columns, whose groups are summed separately within a sample: the cell type, or a
        condition that differs within a sample, such as the treatment in a paired design.
    layer
        Layer with raw counts; `None` for `X`.
    min_cells
        Sums over fewer cells are left out, because their counts are too low for a comparison.
    allow_non_integer
        Accept counts that are not integers, such as counts after correction for ambient RNA. The sums are then floats.

    Returns
    -------
    AnnData with a row per sample (and group) that has cells:

    `X`
        Sums of the counts: a dense array of int64 (float64 where counts are not integers), samples x genes.
    `obs`
        `sample_key`, `groups_key`, `n_cells` (the number of cells in the sum), and the columns of `adata.obs` that have
        a single value in the cells of each row, such as condition, sex or batch. The row names are the sample and the
        groups, joined by `_`.
    `var`
        As in `adata`.

    Raises
    ------
    KeyError, TypeError, ValueError
        There is no such column or layer; a cell has no sample or group; the counts are not raw counts; every sum has
        fewer than `min_cells` cells; two rows would have the same name.

    See Also
    --------
    sc_vaenb.tl.differential : Differences between groups from the model, with donors as replicates.

    References
    ----------
    .. [1] Squair et al. (2021), Confronting false discoveries in single-cell differential expression, Nature
       Communications 12:5692.
    .. [2] Love, Huber and Anders (2014), Moderated estimation of fold change and dispersion for RNA-seq data with
       DESeq2, Genome Biology 15:550.

    Examples
    --------
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.tl.pseudobulk(adata, "batch", "cell_type", layer=None)  # X: 10 x 500

    pydeseq2 for one cell type (installed separately):

    >>> from pydeseq2.dds import DeseqDataSet  # doctest: +SKIP
    >>> from pydeseq2.ds import DeseqStats  # doctest: +SKIP
    >>> bulk = sc_vaenb.tl.pseudobulk(adata, "donor", "cell_type")  # doctest: +SKIP
    >>> bulk = bulk[bulk.obs["cell_type"] == "B cells"].copy()  # doctest: +SKIP
    >>> bulk = bulk[:, bulk.X.sum(0) >= 10].copy()  # doctest: +SKIP
    >>> dds = DeseqDataSet(adata=bulk, design="~condition")  # doctest: +SKIP
    >>> dds.deseq2()  # doctest: +SKIP
    >>> test = DeseqStats(dds, contrast=["condition", "case", "control"])  # doctest: +SKIP
    >>> test.summary()  # doctest: +SKIP
    >>> test.results_df  # doctest: +SKIP
    """
    from anndata import AnnData

    columns = [sample_key, *([groups_key] if isinstance(groups_key, str) else groups_key or [])]
    row, obs = _rows(adata, columns)
    if obs["n_cells"].max() < min_cells:
        msg = (
            f"min_cells={min_cells} leaves nothing: no sum over {' x '.join(columns)} has more than "
            f"{obs['n_cells'].max()} cells. Lower min_cells, or leave out groups_key."
        )
        raise ValueError(msg)
    matrix, slot = _adata.matrix_of(adata, layer)

    start = logg.info(f"summing {slot} over the cells of {len(obs)} rows ({' x '.join(columns)})")
    sums, n_done = np.zeros((len(obs), adata.n_vars)), 0
    for block in row_blocks(matrix, slot, np.ones(adata.n_vars, bool), ROWS_AT_ONCE):
        check_values(block, slot, adata.obs_names[n_done:], adata.var_names, allow_non_integer)
        n = block.shape[0]
        assignment = csr_matrix((np.ones(n), (row[n_done : n_done + n], np.arange(n))), (len(obs), n))
        sums += (assignment @ block).toarray()
        n_done += n
    is_integer = bool((sums == np.rint(sums)).all())
    too_few = (obs["n_cells"] < min_cells).to_numpy()
    if too_few.any():
        logg.warning(
            f"{too_few.sum()} of {len(obs)} sums have fewer than {min_cells} cells and are left out "
            f"(first: {obs.index[np.argmax(too_few)]!r}, {obs['n_cells'].iloc[np.argmax(too_few)]} cells)."
        )
    sums, obs = sums[~too_few], obs[~too_few]
    result = AnnData(sums.astype(np.int64) if is_integer else sums, obs=obs, var=adata.var.copy())
    logg.info("    finished", time=start, deep=f"returned {result.n_obs} x {result.n_vars} sums of counts")
    return result


def _rows(adata: AnnData, columns: list[str]) -> tuple[NDArray[np.int64], pd.DataFrame]:
    """The row of the result that each cell is added to, and the `obs` of the rows."""
    for name, column in zip(["sample_key", *["groups_key"] * len(columns[1:])], columns, strict=True):
        _obs.check_obs_key(adata, name, column)
        missing = adata.obs[column].isna().to_numpy()
        if missing.any():
            msg = (
                f"obs[{column!r}] is missing for {missing.sum()} cells (first: "
                f"{str(adata.obs_names[int(np.argmax(missing))])!r}). Label or remove them."
            )
            raise ValueError(msg)
        codes_of(adata.obs[column])  # raises if values are lists
    if len(set(columns)) < len(columns):
        msg = f"sample_key and groups_key name one column twice: {columns}. Name each once."
        raise ValueError(msg)
    grouped = adata.obs.groupby(columns, observed=True, sort=True)
    row = grouped.ngroup().to_numpy()
    first_cell = np.unique(row, return_index=True)[1]
    others = adata.obs.loc[:, ~adata.obs.columns.duplicated(keep=False)].drop(columns=columns)
    constant = [name for name in others if n_values(others[name]) and _is_constant(others[name], row)]
    obs = adata.obs.iloc[first_cell][columns + constant].copy()
    obs["n_cells"] = np.bincount(row)
    obs.index = obs[columns].astype(str).agg("_".join, axis=1).to_numpy()
    if not obs.index.is_unique:
        duplicate = obs.index[obs.index.duplicated()][0]
        msg = f"two rows would have the name {duplicate!r}, because {columns} hold '_'. Rename the values of a column."
        raise ValueError(msg)
    for name in obs.columns[[isinstance(dtype, pd.CategoricalDtype) for dtype in obs.dtypes]]:
        obs[name] = obs[name].cat.remove_unused_categories()
    return row, obs


def _is_constant(column: pd.Series, row: NDArray[np.int64]) -> bool:
    """Whether a column has a single value in the cells of each row."""
    codes = pd.factorize(column)[0]
    first_code = codes[np.unique(row, return_index=True)[1]]
    return bool((codes == first_code[row]).all())
