"""From counts on disk to what a fit or an embedding needs of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from .. import _adata
from .._disk import DiskCounts
from .._record import FittedModel
from ..fit.batches import evenly
from ..fit.distributed import Processes
from ..fit.loop import FitConfig
from ..fit.stored import StoredCounts, cells_seen, scan_together
from ._model import side_inputs_of

if TYPE_CHECKING:
    from anndata import AnnData


def counts_to_fit(
    adata: AnnData,
    params: Mapping[str, Any],
    disk: DiskCounts,
    codes: NDArray[np.int64],
    side_inputs: dict[str, NDArray],
    options: FitConfig,
    seed: int,
    processes: Processes,
) -> tuple[StoredCounts, NDArray[np.str_], float]:
    """Counts checked in one pass over them, with those that the fit will see; genes; and the mean size factor.

    Of the pass each process does its part.
    """
    mask = disk.mask
    cells, complete = cells_seen(codes, options, seed)
    found = scan_together(processes, disk.blocks, len(disk.genes), len(codes), cells)
    _adata.check_no_empty(found.depth == 0, disk.matrix, disk.where, disk.cells, len(disk.genes))
    genes, matrix = disk.genes.to_numpy(dtype=str), found.matrix
    if not found.seen.all():
        _adata.warn_of_silent(genes, found.seen)
        used = np.flatnonzero(mask)[found.seen]
        genes, matrix = genes[found.seen], matrix[:, np.flatnonzero(found.seen)]
        disk = replace(disk, genes=disk.genes[found.seen], mask=np.isin(np.arange(len(mask)), used))
    key = params["size_factor"]
    size_factor = found.depth if key is None else _adata.size_factor_column(adata, key)
    mean = size_factor.mean()
    counts = StoredCounts(
        matrix,
        (size_factor / mean).astype(np.float32),
        codes,
        side_inputs,
        held=cells,
        complete=complete,
        blocks=lambda part: disk.blocks(part, check=False),
        read=disk.read,
    )
    return counts, genes, mean


def counts_to_embed(adata: AnnData, key: str, stored: FittedModel, *, batches: bool) -> StoredCounts:
    """Counts to be gone through once, in order: checked on the way, and size factors known as they come."""
    params = stored.params
    order = _adata.locate_genes(adata, stored.genes, key)
    mask = np.zeros(adata.n_vars, dtype=bool)
    mask[order] = True
    disk = disk_counts(adata, params, mask)
    column, size_factor = params.get("size_factor"), np.ones(adata.n_obs, np.float32)
    if column is not None:
        size_factor = (_adata.size_factor_column(adata, column) / stored.size_factor_mean).astype(np.float32)
    codes = np.zeros(adata.n_obs, np.int64)
    if stored.batches and (batches or stored.proteins):
        codes = _adata.batch_codes(adata, params["batch_key"], stored.batches)
    place, sorted_already = np.argsort(np.argsort(order)), not (np.diff(order) < 0).any()

    def blocks(part: slice) -> Iterator[sparse.csr_matrix]:
        done, empty = part.indices(adata.n_obs)[0], np.zeros(adata.n_obs, dtype=bool)
        for block in disk.blocks(part):
            cells = slice(done, done := done + block.shape[0])
            empty[cells] = np.diff(block.indptr) == 0
            if column is None:
                size_factor[cells] = _adata.depth(block) / stored.size_factor_mean
            yield block if sorted_already else block[:, place]
        _adata.check_no_empty(empty, disk.matrix, disk.where, disk.cells, len(disk.genes))

    none = sparse.csr_matrix((0, len(order)), dtype=np.float32)
    nowhere = np.empty(0, np.int64)
    side_inputs = side_inputs_of(adata, stored, params, codes)
    return StoredCounts(
        none, size_factor, codes, side_inputs, held=nowhere, complete=False, blocks=blocks, read=disk.read
    )


def depth_on_disk(disk: DiskCounts) -> float:
    """The median of the cells' counts: of the same cells as `Counts.typical_depth`."""
    depth = np.concatenate([_adata.depth(block) for block in disk.blocks()])
    return float(np.median(depth[evenly(len(depth))]))


def disk_counts(adata: AnnData, params: Mapping[str, Any], mask: NDArray[np.bool_]) -> DiskCounts:
    matrix, where = _adata.matrix_of(adata, params.get("layer"))
    allowed = bool(params.get("allow_non_integer", False))
    return DiskCounts(matrix, where, adata.obs_names, adata.var_names[mask], mask, allowed)
