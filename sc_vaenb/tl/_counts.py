"""Read counts from an AnnData for a fit or a fitted model. Only this file decides between memory and disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scanpy import logging as logg
from scanpy import settings
from scipy import sparse

from .. import _adata, _obs
from .._record import FittedModel
from ..data.counts import Counts, evenly_spread
from ..data.on_disk import CountsOnDisk, MatrixOnDisk, on_disk
from ..fit.distributed import Processes, scan_together
from ..fit.schedule import MAX_STEPS, default_steps, default_weight_decay
from ..fit.split import cells_seen
from ..fit.state import FitConfig
from ._covariates import read_covariates
from ._peaks import read_peaks
from ._proteins import read_proteins

if TYPE_CHECKING:
    from anndata import AnnData


class CountsToFit(NamedTuple):
    """Counts, the settings of the fit, the names of the genes, and the mean by which size factors were divided."""

    counts: Counts
    options: FitConfig
    genes: NDArray[np.str_]
    size_factor_mean: float


def counts_to_fit(
    adata: AnnData,
    params: Mapping[str, Any],
    codes: NDArray[np.int64],
    side_inputs: dict[str, NDArray],
    seed: int,
    processes: Processes,
) -> CountsToFit:
    """Read and check the counts of the genes in `mask_var`, without genes that have no counts.

    Counts on disk are checked in one pass, which the processes share. The cells that the fit will see are kept in
    memory.
    """
    mask = _adata.gene_mask(adata, params["mask_var"])
    is_on_disk = on_disk(*_adata.matrix_of(adata, params["layer"]), logg.warning)
    processes.check_same({"whether counts are on disk": is_on_disk})
    if is_on_disk:
        return _on_disk_to_fit(adata, params, mask, codes, side_inputs, seed, processes)
    allowed = params["allow_non_integer"]
    matrix = _adata.read_counts(
        adata, params["layer"], mask, allow_non_integer=allowed, copy=False, more_advice=_for_peaks_alone(params)
    )
    matrix, genes = _adata.without_silent_genes(matrix, adata.var_names[mask].to_numpy(dtype=str))
    size_factor = _adata.read_size_factor(adata, params["size_factor"], matrix)
    mean = size_factor.mean()
    counts = Counts(matrix, (size_factor / mean).astype(np.float32), codes, side_inputs)
    options = _fit_config(params, adata.n_obs, int(mask.sum()), counts.typical_depth)
    return CountsToFit(counts, options, genes, mean)


def _on_disk_to_fit(
    adata: AnnData,
    params: Mapping[str, Any],
    mask: NDArray[np.bool_],
    codes: NDArray[np.int64],
    side_inputs: dict[str, NDArray],
    seed: int,
    processes: Processes,
) -> CountsToFit:
    disk = _matrix_on_disk(adata, params, mask)

    def typical_depth() -> float:
        """The median depth of the same cells as in `Counts.typical_depth`."""
        depth = np.concatenate([_adata.depth(block) for block in disk.blocks()])
        return float(np.median(depth[evenly_spread(len(depth))]))

    options = _fit_config(params, adata.n_obs, int(mask.sum()), typical_depth)
    cells, complete = cells_seen(codes, options, seed)
    scan = scan_together(processes, disk.blocks, len(disk.genes), len(codes), cells)
    more_advice = _for_peaks_alone(params)
    _adata.check_no_empty_cells(scan.depth == 0, disk.matrix, disk.where, disk.cells, len(disk.genes), more_advice)
    genes, matrix = disk.genes.to_numpy(dtype=str), scan.matrix
    if not scan.seen.all():
        _adata.warn_of_silent(genes, scan.seen)
        columns = np.flatnonzero(mask)[scan.seen]
        genes, matrix = genes[scan.seen], matrix[:, np.flatnonzero(scan.seen)]
        disk = replace(disk, genes=disk.genes[scan.seen], mask=np.isin(np.arange(len(mask)), columns))
    key = params["size_factor"]
    size_factor = scan.depth if key is None else _adata.size_factor_column(adata, key)
    mean = size_factor.mean()
    counts = CountsOnDisk(
        matrix,
        (size_factor / mean).astype(np.float32),
        codes,
        side_inputs,
        held=cells,
        complete=complete,
        blocks=lambda part: disk.blocks(part, check=False),
        read=disk.read,
    )
    return CountsToFit(counts, options, genes, mean)


def _for_peaks_alone(params: Mapping[str, Any]) -> str:
    """Advice for cells without counts in genes."""
    if params["peaks_key"] is None:
        return ""
    return "Cells with peaks alone are mapped on the fitted model, by sc_vaenb.tl.map_query."


def _fit_config(params: Mapping[str, Any], n_cells: int, n_genes: int, depth: Callable[[], float]) -> FitConfig:
    """The settings of the fit. Those that are None depend on the data; `depth` is called only if it is needed."""
    options = {field.name: params[field.name] for field in fields(FitConfig)}
    if options["n_steps"] is None:
        min_steps = default_steps(n_cells, n_genes, 0)
        options["n_steps"] = min_steps if min_steps == MAX_STEPS else default_steps(n_cells, n_genes, depth())
    if options["weight_decay"] is None:
        options["weight_decay"] = default_weight_decay(n_cells)
    return FitConfig(**options)


def read_counts(
    adata: AnnData,
    key: str,
    fitted: FittedModel,
    *,
    batches: bool = True,
    params: Mapping[str, Any] | None = None,
    in_one_pass: bool = False,
    peaks_suffice: bool = False,
) -> Counts:
    """Read counts, size factors and batch codes from the places in `params`, or in the params of the fitted model.

    Genes are matched by name. Batch codes are zero if the model knows no batches, or if `batches` is False. With
    `in_one_pass`, counts on disk stay there and can be read once, in order. With `peaks_suffice`, a cell that has
    counts in peaks needs none in genes; its size factor is 1.
    """
    params = fitted.params if params is None else params
    order = _adata.locate_genes(adata, fitted.genes, key)
    mask = np.zeros(adata.n_vars, dtype=bool)
    mask[order] = True
    codes = np.zeros(adata.n_obs, np.int64)
    column, peaks = params.get("size_factor"), _peaks(adata, fitted, params)
    may_be_empty = np.zeros(adata.n_obs, dtype=bool)
    if peaks_suffice and peaks is not None:
        may_be_empty = np.diff(peaks.indptr) > 0
    # if adata has another order of genes
    position = np.argsort(np.argsort(order)) if (np.diff(order) < 0).any() else None

    if in_one_pass and on_disk(*_adata.matrix_of(adata, params.get("layer")), logg.warning):
        disk = _matrix_on_disk(adata, params, mask)
        size_factor = np.ones(adata.n_obs, np.float32)
        if column is not None:
            size_factor = (_adata.size_factor_column(adata, column) / fitted.size_factor_mean).astype(np.float32)
        if fitted.batches and (batches or fitted.proteins):
            codes = _obs.batch_codes(adata, params["batch_key"], fitted.batches)
        mean = fitted.size_factor_mean if column is None else None
        blocks = _blocks_in_one_pass(disk, position, size_factor, mean, may_be_empty)
        no_counts, no_cells = sparse.csr_matrix((0, len(order)), dtype=np.float32), np.empty(0, np.int64)
        side_inputs = read_side_inputs(adata, fitted, params, codes)
        return CountsOnDisk(
            no_counts,
            size_factor,
            codes,
            side_inputs,
            held=no_cells,
            complete=False,
            peaks=peaks,
            blocks=blocks,
            read=disk.read,
        )

    allowed = bool(params.get("allow_non_integer", False))
    matrix = _adata.read_counts(
        adata, params.get("layer"), mask, allow_non_integer=allowed, copy=False, may_be_empty=may_be_empty
    )
    if position is not None:
        matrix = matrix[:, position]
    size_factor = _adata.read_size_factor(adata, column, matrix) / fitted.size_factor_mean
    size_factor[size_factor == 0] = 1
    if fitted.batches and (batches or fitted.proteins):
        codes = _obs.batch_codes(adata, params["batch_key"], fitted.batches)
    side_inputs = read_side_inputs(adata, fitted, params, codes)
    return Counts(matrix, size_factor.astype(np.float32), codes, side_inputs, peaks=peaks)


def _blocks_in_one_pass(
    disk: MatrixOnDisk,
    position: NDArray[np.int64] | None,
    size_factor: NDArray[np.float32],
    mean: float | None,
    may_be_empty: NDArray[np.bool_],
) -> Callable[[slice], Iterator[sparse.csr_matrix]]:
    """Read and check blocks of cells. With `mean`, also write depth / mean as the size factor of each cell."""

    def blocks(part: slice) -> Iterator[sparse.csr_matrix]:
        start, empty = part.indices(len(size_factor))[0], np.zeros(len(size_factor), dtype=bool)
        for block in disk.blocks(part):
            cells = slice(start, start := start + block.shape[0])
            empty[cells] = np.diff(block.indptr) == 0
            if mean is not None:
                size_factor[cells] = np.where(empty[cells], 1, _adata.depth(block) / mean)
            yield block if position is None else block[:, position]
        _adata.check_no_empty_cells(empty & ~may_be_empty, disk.matrix, disk.where, disk.cells, len(disk.genes))

    return blocks


def read_side_inputs(
    adata: AnnData, fitted: FittedModel, params: Mapping[str, Any], codes: NDArray[np.int64]
) -> dict[str, NDArray[np.float32]]:
    """Covariates and proteins of each cell, if the model was fitted with them."""
    side_inputs = {"covariates": read_covariates(adata, fitted.covariates)} if fitted.covariates else {}
    if fitted.proteins:
        allowed = bool(params.get("allow_non_integer", False))
        side_inputs["protein"] = read_proteins(adata, params["protein_key"], fitted.proteins, codes, allowed)
    return side_inputs


def _peaks(adata: AnnData, fitted: FittedModel, params: Mapping[str, Any]) -> sparse.csr_matrix | None:
    """Counts in peaks of each cell, if the model was fitted with them."""
    if not fitted.peaks:
        return None
    return read_peaks(adata, params["peaks_key"], fitted.peaks, bool(params.get("allow_non_integer", False)))


def _matrix_on_disk(adata: AnnData, params: Mapping[str, Any], mask: NDArray[np.bool_]) -> MatrixOnDisk:
    matrix, where = _adata.matrix_of(adata, params.get("layer"))
    allowed = bool(params.get("allow_non_integer", False))
    genes, progress = adata.var_names[mask], settings.verbosity.value > 0
    return MatrixOnDisk(matrix, where, adata.obs_names, genes, mask, allowed, logg.info, progress)
