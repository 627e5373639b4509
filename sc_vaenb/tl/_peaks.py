"""Counts in peaks of open chromatin in `obsm`: their names, and their values for a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scanpy import logging as logg
from scipy import sparse

from ..data.matrix import read_matrix
from ._feature_names import check_any_known, feature_names, read_table

if TYPE_CHECKING:
    from anndata import AnnData


def learn_peaks(adata: AnnData, key: str, allow_non_integer: bool) -> tuple[list[str], sparse.csr_matrix]:
    """Names and counts (cells x peaks) of the peaks that have counts."""
    names, counts = _counts(adata, key, allow_non_integer)
    found = np.bincount(counts.indices, minlength=len(names)) > 0
    if not found.any():
        msg = f"obsm[{key!r}] holds no count above 0. Give the counts of fragments in peaks, or leave peaks_key out."
        raise ValueError(msg)
    if not found.all():
        silent = names[~found]
        logg.warning(
            f"{len(silent)} of {len(names)} peaks have no counts in these cells (first: {silent[0]!r}) and are left "
            "out of the model."
        )
        counts = counts[:, np.flatnonzero(found)]
    n_without = int((np.diff(counts.indptr) == 0).sum())
    if n_without:
        logg.info(f"{n_without} of {adata.n_obs} cells have no counts in peaks: they are embedded by their genes.")
    return names[found].tolist(), counts


def read_peaks(adata: AnnData, key: str, known: list[str], allow_non_integer: bool) -> sparse.csr_matrix | None:
    """Counts of the model's peaks (cells x peaks); peaks that these cells lack have none. None without the table."""
    if key not in adata.obsm:
        logg.warning(f"adata.obsm has no {key!r}: these cells are taken to have no peaks measured.")
        return None
    names, counts = _counts(adata, key, allow_non_integer)
    check_any_known(key, known, names, "peak")
    column = names.get_indexer(known)
    if (column < 0).any():
        logg.warning(f"obsm[{key!r}] lacks {(column < 0).sum()} of the {len(known)} peaks of the model.")
        counts = sparse.hstack([counts, sparse.csr_matrix((adata.n_obs, 1), dtype=np.float32)], format="csr")
    return counts[:, column]  # of a peak that is not there, the empty column at the end


def _counts(adata: AnnData, key: str, allow_non_integer: bool) -> tuple[pd.Index, sparse.csr_matrix]:
    """Names and counts of all peaks in the table, every value checked."""
    table = read_table(adata, key, "peak")
    names = pd.Index(feature_names(adata, key, table, "peak"))
    table = table.to_numpy() if isinstance(table, pd.DataFrame) else table
    mask, where = np.ones(len(names), dtype=bool), f"obsm[{key!r}]"
    return names, read_matrix(table, where, adata.obs_names, names, mask, allow_non_integer, logg.info, copy=False)
