"""Find the raw counts and keep them, compute size factors, and choose the genes to model."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scanpy import logging as logg
from scipy import sparse

from .. import _adata
from .._adata import keys
from .._checks import checked
from .._obs import read_batches, title_of
from .._session import own_state, shared
from ._find_counts import check_no_overwrite, find_counts
from ._tally import Tally
from ._variable_genes import Genes, log_normalised, variable_genes

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

HVG_COLUMNS = {  # columns of var that scanpy.pp.highly_variable_genes writes, over all flavors
    "highly_variable",
    "highly_variable_intersection",
    "highly_variable_nbatches",
    "highly_variable_rank",
    "means",
    "dispersions",
    "dispersions_norm",
    "variances",
    "variances_norm",
}


@own_state()
@checked
def prepare(
    adata: AnnData,
    batch_key: str | Sequence[str] | None = None,
    *,
    layer: str | None = None,
    n_top_genes: int = 2000,
    log1p: bool = False,
    allow_non_integer: bool = False,
    copy: bool = False,
) -> AnnData | None:
    """Find and keep the raw counts, and choose the genes to model.

    This is the one step between a filtered AnnData and :func:`sc_vaenb.tl.cvae`. ``X`` may be in any state. Raw counts
    are looked for in ``layers['counts']``, ``X``, ``raw`` (the genes of `adata`, matched by name), and layers with
    count, raw or umi in their name, in this order, but not in those with spliced or ambiguous in their name, which hold
    a part of the counts each. The first place without negative and non-integer values is taken.

    Variable genes are chosen by ``scanpy.pp.highly_variable_genes(flavor='seurat_v3')`` (Stuart et al. 2019) on the
    counts, batch by batch. Its loess fit fails in batches with few cells or low counts. If these batches hold at most a
    tenth of the cells, they are left out of the choice. If they hold more, ``flavor='seurat'`` (Satija et al. 2015) on
    log-normalised counts is used instead. A warning reports both. Genes without counts are never chosen. If at most
    `n_top_genes` genes have counts, all of them are chosen.

    Parameters
    ----------
    adata
        Annotated data, cells x genes, with raw counts in any of these places. Counts on disk (``X`` of a backed
        AnnData, or dask arrays, such as those of files joined lazily) stay there. They are read twice, some thousand
        cells at a time. ``raw`` on disk is not looked at.
    batch_key
        Column of ``obs`` with the batch of each cell, or several columns, as in :func:`sc_vaenb.tl.cvae`. The variance
        of a gene is then computed within batches, so that a difference between batches does not make it variable.
    layer
        Layer with the raw counts, instead of the search.
    n_top_genes
        Number of genes to choose.
    log1p
        Replace ``X`` by normalised log counts (``scanpy.pp.normalize_total``, then ``scanpy.pp.log1p``).
    allow_non_integer
        Accept non-integer values as counts, for counts corrected for ambient RNA. Places with whole numbers are
        preferred. If ``uns['log1p']`` says that the data were logarithmised, ``X`` and ``raw`` are not taken.
    copy
        Return a copy instead of writing to `adata`.

    Returns
    -------
    `None`, or a copy of `adata` if `copy`, with these fields added:

    ``layers['counts']``
        The counts as CSR float32; unchanged if it holds them already. Counts on disk are not copied: pass their layer
        to the functions that you call next (``layer=None`` if they are in ``X``).
    ``obs['size_factor']``
        Total counts of each cell over all genes, divided by the mean over cells; shape (cells,), no unit, mean 1.
    ``var['highly_variable']``
        Whether a gene was chosen. The other columns and ``uns['hvg']`` of :func:`scanpy.pp.highly_variable_genes` are
        written too, unless all genes with counts were chosen.
    ``uns['prepare']``
        Record: `source` of the counts, `flavor` that chose the genes (``'all'`` if all genes with counts were chosen),
        `fallback` (why the flavor is seurat, or empty), `left_out` (batches left out of the choice, or empty),
        `n_top_genes` (the argument), `n_genes` (how many were chosen), `batch_key` (of
        several columns `"donor | technology"`, empty if none), `log1p`.
    ``X`` and ``uns['log1p']``
        Only if `log1p`.

    On error `adata` is unchanged.

    Raises
    ------
    KeyError
        If `layer` or `batch_key` does not exist.
    TypeError
        If `adata` is not an AnnData, or `layer` is of an unsupported type.
    ValueError
        If no place holds raw counts (the message gives the reason for each place); if ``layers['counts']`` differs
        from the counts found elsewhere; if a cell has no counts; if a cell has no batch, a batch has one cell, or
        `batch_key` has one batch; if `adata` is backed and `copy` or `log1p` is set.

    See Also
    --------
    sc_vaenb.tl.design : Which questions the design of the data can answer.
    sc_vaenb.tl.cvae : The next step.
    scanpy.pp.highly_variable_genes : Chooses the genes.

    References
    ----------
    .. [1] Stuart et al. (2019), Comprehensive integration of single-cell data, Cell 177:1888-1902.
    .. [2] Satija et al. (2015), Spatial reconstruction of single-cell gene expression data, Nature Biotechnology
       33:495-502.

    Examples
    --------
    >>> sc_vaenb.pp.prepare(adata, batch_key="sample")
    >>> sc_vaenb.tl.cvae(adata, batch_key="sample")
    """
    if adata.isbacked and log1p:
        msg = "log1p=True would replace X, but adata is backed by a file. Call adata = adata.to_memory() first."
        raise ValueError(msg)
    batches, labels = (None, np.array([""])) if batch_key is None else read_batches(adata, batch_key)
    counts, source = find_counts(adata, layer, allow_non_integer, batches)
    check_no_overwrite(adata, counts, source)
    depth = _depth(adata, counts, source)

    is_on_disk = isinstance(counts, Tally)
    if is_on_disk and log1p:
        msg = f"log1p=True would read all counts into memory, but {source} is on disk. Call adata.to_memory() first."
        raise ValueError(msg)

    start = logg.info(f"preparing raw counts found in {source}")
    for slot, column in (("var", "highly_variable"), ("obs", "size_factor")):
        if column in getattr(adata, slot):
            logg.info(f"    replacing {slot}[{column!r}]")
    adata = adata.copy() if copy else adata
    genes = variable_genes(counts, adata.var_names, batches, labels, n_top_genes)
    normalised = log_normalised(counts) if log1p else None
    record = {
        "source": source,
        "flavor": genes.flavor,
        "fallback": genes.fallback,
        "left_out": genes.left_out,
        "n_top_genes": int(n_top_genes),
        "n_genes": int(genes.columns["highly_variable"].sum()),
        "batch_key": "" if batch_key is None else title_of(batch_key),
        "log1p": bool(log1p),
    }
    _write(adata, counts, depth / depth.mean(), genes, normalised, record)
    logg.info(
        "    finished",
        time=start,
        deep=(
            "added\n"
            + ("" if is_on_disk else "    'counts', raw counts (adata.layers)\n")
            + "    'size_factor', relative depth (adata.obs)\n"
            f"    'highly_variable', {record['n_genes']} genes by flavor {genes.flavor!r} (adata.var)\n"
            "    'prepare', record (adata.uns)" + ("\n    normalised log counts (adata.X)" if log1p else "")
        ),
    )
    if is_on_disk and source != "layers['counts']":
        logg.info(f"the counts stay on disk, in {source}: pass {_layer_argument(source)} to the next functions")
    return adata if copy else None


def _layer_argument(source: str) -> str:
    return "layer=None" if source == "X" else source.replace("layers[", "layer=").removesuffix("]")


def _depth(adata: AnnData, counts: sparse.csr_matrix | Tally, source: str) -> NDArray[np.float64]:
    """Total counts of each cell over all genes. Raise if a cell has none."""
    depth = counts.depth if isinstance(counts, Tally) else _adata.depth(counts)
    empty = np.flatnonzero(depth == 0)
    if len(empty):
        msg = (
            f"{source}: {len(empty)} cells have no counts (first: {str(adata.obs_names[empty[0]])!r}), so they have no "
            "size factor. Remove them, e.g. with sc.pp.filter_cells(adata, min_counts=1)."
        )
        raise ValueError(msg)
    return depth


def _write(
    adata: AnnData,
    counts: sparse.csr_matrix | Tally,
    size_factor: NDArray[np.float64],
    genes: Genes,
    normalised: AnnData | None,
    record: dict[str, Any],
) -> None:
    from anndata import ImplicitModificationWarning

    with shared(), warnings.catch_warnings():
        # writing to a view turns it into a copy, as everywhere in scanpy
        warnings.simplefilter("ignore", ImplicitModificationWarning)
        adata.obs["size_factor"] = size_factor
    # remove columns of an earlier choice of genes, which would look like part of this one
    for name in HVG_COLUMNS.intersection(adata.var) - set(genes.columns):
        del adata.var[name]
    adata.uns.pop("hvg", None)
    for name, column in genes.columns.items():
        adata.var[name] = column
    if genes.flavor != "all":
        adata.uns["hvg"] = {"flavor": genes.flavor}
    if "counts" not in keys(adata.layers) and not isinstance(counts, Tally):
        adata.layers["counts"] = counts
    if normalised is not None:
        adata.X = normalised.X  # after obs, which copies a view: else X would be written into the parent
        adata.uns["log1p"] = normalised.uns["log1p"]
    adata.uns["prepare"] = record
