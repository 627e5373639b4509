"""Find the raw counts of an AnnData: in layers['counts'], X, raw or another layer; in memory or on disk."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import scanpy as sc
from scanpy import logging as logg
from scipy import sparse

from .._adata import keys, matrix_of
from ..data.matrix import from_a_file, on_host, read_matrix
from ..data.on_disk import MatrixOnDisk, on_disk
from ..data.sparse import checked_matrix
from ._tally import Tally, tally

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

ReadMatrix = Callable[[], tuple[Any, str]]  # returns a matrix and its name

COUNT_LAYER = re.compile("count|raw|umi", re.IGNORECASE)  # names of layers that are searched, besides "counts",
PART_OF_COUNTS = re.compile("spliced|ambiguous", re.IGNORECASE)  # but not these: RNA velocity splits counts into them


def find_counts(
    adata: AnnData, layer: str | None, allow_non_integer: bool, batches: NDArray[np.int64] | None
) -> tuple[sparse.csr_matrix | Tally, str]:
    """The raw counts of all genes and the name of their place; for counts on disk, their sums instead of the counts."""
    all_genes = np.ones(adata.n_vars, dtype=bool)

    def read(read_place: ReadMatrix, allow: bool) -> tuple[sparse.csr_matrix | Tally, str]:
        matrix, where = read_place()
        if on_disk(matrix, where, logg.warning):
            progress = sc.settings.verbosity.value > 0
            names = adata.obs_names, adata.var_names
            return tally(MatrixOnDisk(matrix, where, *names, all_genes, allow, logg.info, progress), batches), where
        return read_matrix(matrix, where, adata.obs_names, adata.var_names, all_genes, allow, logg.info), where

    if layer is not None:
        return read(partial(matrix_of, adata, layer), allow_non_integer)

    layers = keys(adata.layers)
    searched_layers = [name for name in layers if name != "counts" and is_searched(name)]
    ignored_layers = [name for name in layers if name != "counts" and name not in searched_layers]
    from_counts: list[ReadMatrix] = [partial(matrix_of, adata, "counts")] if "counts" in layers else []
    from_x_and_raw: list[ReadMatrix] = [partial(matrix_of, adata, None)]
    from_x_and_raw += [partial(_raw, adata)] if adata.raw is not None else []
    from_layers: list[ReadMatrix] = [partial(matrix_of, adata, name) for name in searched_layers]

    attempts = [(read_place, False) for read_place in (*from_counts, *from_x_and_raw, *from_layers)]
    is_log = allow_non_integer and "log1p" in adata.uns
    if allow_non_integer:
        # Log-normalised values look like ambient-corrected counts. So whole numbers are tried first, and X and raw are
        # not tried if they are known to be logarithms.
        places = (*from_counts, *([] if is_log else from_x_and_raw), *from_layers)
        attempts += [(read_place, True) for read_place in places]
    reasons = []
    for read_place, allow in attempts:
        try:
            return read(read_place, allow)
        except (TypeError, ValueError) as error:
            reasons.append(f"- {error}")
    msg = "\n".join(["adata holds no raw counts. Looked at:", *dict.fromkeys(reasons), ""])
    if ignored_layers:
        msg += f"Not looked at: layers {ignored_layers}. "
    if is_log:
        msg += "X and raw do not pass for ambient-corrected counts, as uns['log1p'] says that they are logarithmised. "
    msg += "Put the raw counts into adata.layers['counts'], or name their layer (layer=...)."
    raise ValueError(msg)


def is_searched(layer: str) -> bool:
    """Whether raw counts are looked for in a layer of this name."""
    return COUNT_LAYER.search(layer) is not None and PART_OF_COUNTS.search(layer) is None


def _raw(adata: AnnData) -> tuple[Any, str]:
    """The matrix of adata.raw with the genes of adata, in the order of adata."""
    if adata.isbacked or from_a_file(adata.raw.X):
        msg = "raw on disk is not looked at, because no other function could read it from there."
        raise ValueError(msg)
    names = adata.raw.var_names
    if not names.is_unique:
        msg = f"raw names genes twice (first: {str(names[names.duplicated()][0])!r}), so they cannot be matched."
        raise ValueError(msg)
    columns = names.get_indexer(adata.var_names)
    if (columns < 0).any():
        missing_genes = adata.var_names[columns < 0]
        msg = f"raw lacks {len(missing_genes)} of the {adata.n_vars} genes (first: {str(missing_genes[0])!r})."
        raise ValueError(msg)
    return checked_matrix(on_host(adata.raw.X), "raw")[:, columns], "raw"


def check_no_overwrite(adata: AnnData, counts: sparse.csr_matrix | Tally, source: str) -> None:
    """Raise if `layers["counts"]` exists and differs from the counts that would be written there."""
    if isinstance(counts, Tally) or source == "layers['counts']" or "counts" not in keys(adata.layers):
        return
    try:
        matrix, where = matrix_of(adata, "counts")
        all_genes = np.ones(adata.n_vars, dtype=bool)
        existing = read_matrix(matrix, where, adata.obs_names, adata.var_names, all_genes, True, logg.info)
        differ = (existing != counts).nnz > 0
    except (TypeError, ValueError):  # the layer holds no counts at all
        differ = True
    if differ:
        msg = (
            f"layers['counts'] exists and differs from the counts found in {source}; it is not overwritten. Rename or "
            "delete it, or pass layer='counts' to use it."
        )
        raise ValueError(msg)
