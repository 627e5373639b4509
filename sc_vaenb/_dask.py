"""Rows of a dask array, which is how anndata reads lazily and joins files; dask itself is not imported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from scipy import sparse

from ._sparse import sound


def is_dask(matrix: Any) -> bool:
    """Whether a matrix is a dask array, or anndata's view of one."""
    return any(kind.__module__.startswith("dask.array") for kind in type(matrix).__mro__)


def by_genes(matrix: Any) -> bool:
    """Whether the chunks of a dask array are CSC matrices, so that each row is in many of them."""
    return getattr(matrix._meta, "format", "") == "csc"


def computed(matrix: Any, where: str, slices: Iterable[slice]) -> Iterator[Any]:
    """The rows of each slice (in order, each row once), of which each chunk is computed once.

    In the thread that asks, whatever scheduler dask has been given: files are read one after the other in any case.
    """
    sizes = np.array(matrix.chunks[0])
    ends, number = np.cumsum(sizes), -1
    chunk: Any = None
    chunks = matrix.to_delayed()  # once: to cut a chunk out of the array takes longer, the more chunks there are
    for rows in slices:
        parts = []
        first, last = np.searchsorted(ends, [rows.start, min(rows.stop, ends[-1]) - 1], side="right")
        for here in range(first, last + 1):
            if here != number:
                number, chunk = here, _compute(chunks[here], where, ends[here] - sizes[here])
            start = ends[here] - sizes[here]
            parts.append(chunk[max(rows.start - start, 0) : rows.stop - start])
        join = sparse.vstack if all(map(sparse.issparse, parts)) else np.concatenate
        yield parts[0] if len(parts) == 1 else join(parts)


def _compute(row: Iterable[Any], where: str, first_row: int) -> Any:
    """A row of chunks, side by side."""
    parts = [sound(chunk.compute(scheduler="synchronous"), where, first_row) for chunk in row]
    if all(map(sparse.issparse, parts)):
        return sparse.hstack(parts, format="csr") if len(parts) > 1 else parts[0].tocsr()
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate(parts, axis=1) if len(parts) > 1 else parts[0]
    found = parts[0]
    msg = (
        f"{where} is a dask array of {type(found).__module__}.{type(found).__name__}. Give one whose chunks are numpy "
        "arrays or scipy CSR matrices."
    )
    raise TypeError(msg)
