"""Counts of surface proteins in `obsm`: their names, the batches that measured them, and their values for a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scanpy import logging as logg

from ..data.counts import cells_by_code
from ..data.matrix import LARGEST, ROUNDING, nearly_whole
from ..data.sparse import dense
from ._feature_names import check_any_known, feature_names, read_table

if TYPE_CHECKING:
    from anndata import AnnData


def learn_proteins(
    adata: AnnData, key: str, codes: NDArray[np.int64], batches: NDArray[np.str_], allow_non_integer: bool
) -> dict[str, Any]:
    """Names of the proteins with counts, and whether each batch measured them: it has a count above 0."""
    table = _table(adata, key, allow_non_integer)
    measured = _measured(table.to_numpy(), codes, max(len(batches), 1))
    silent = table.columns[~measured.any(0)]
    if len(silent) == table.shape[1]:
        msg = (
            f"obsm[{key!r}] holds no count above 0 of any of its {len(silent)} proteins: none was measured. "
            "Give the raw counts of proteins, or leave protein_key out."
        )
        raise ValueError(msg)
    if len(silent):
        logg.warning(
            f"{len(silent)} of {table.shape[1]} proteins have no counts in these cells (first: {silent[0]!r}) and are "
            "left out of the model."
        )
    measured = measured[:, measured.any(0)]
    names = table.columns.difference(silent, sort=False).tolist()
    for batch, is_measured in zip(batches, measured, strict=False):
        if not is_measured.all():
            first = names[int(np.argmin(is_measured))]
            logg.info(
                f"batch {str(batch)!r} has no counts of {(~is_measured).sum()} of {len(names)} proteins "
                f"(first: {first!r}): they are taken as not measured there."
            )
    return {"names": names, "measured": measured.tolist()}


def read_proteins(
    adata: AnnData, key: str, learned: Mapping[str, Any], codes: NDArray[np.int64], allow_non_integer: bool
) -> NDArray[np.float32]:
    """Counts of the model's proteins, cells x proteins; NaN where one was not measured.

    A protein is not measured in a cell if the value is missing. It is not measured in a batch if all values of this
    batch are 0, here and in the fit. Without the table in `obsm`, no protein is measured.
    """
    names = list(learned["names"])
    if key not in adata.obsm:
        logg.warning(f"adata.obsm has no {key!r}: these cells are taken to have no protein measured.")
        return np.full((adata.n_obs, len(names)), np.nan, np.float32)
    table = _table(adata, key, allow_non_integer)
    check_any_known(key, names, table.columns, "protein")
    values = table.reindex(columns=names).to_numpy()
    fitted = np.array(learned["measured"])
    measured = _measured(values, codes, max(int(codes.max(initial=0)) + 1, len(fitted)))
    measured[: len(fitted)] |= fitted
    return np.where(measured[codes], values, np.nan).astype(np.float32)


def with_batches(
    learned: dict[str, Any], values: NDArray[np.float32], codes: NDArray[np.int64], n_batches: int
) -> dict[str, Any]:
    """The learned proteins, with the new batches; these cells say which proteins a new batch measured."""
    n_known = len(learned["measured"])
    return learned | {"measured": learned["measured"] + _measured(values, codes, n_batches)[n_known:].tolist()}


def _measured(values: NDArray, codes: NDArray[np.int64], n_batches: int) -> NDArray[np.bool_]:
    """Whether each batch has a count above 0 of each protein (batches x proteins)."""
    measured = np.zeros((n_batches, values.shape[1]), dtype=bool)
    for cells in cells_by_code(codes):
        measured[codes[cells[0]]] = (values[cells] > 0).any(0)  # NaN > 0 is False
    return measured


def _table(adata: AnnData, key: str, allow_non_integer: bool) -> pd.DataFrame:
    """The table in `obsm` as float64, with every value checked; the columns are the names of the proteins."""
    table = read_table(adata, key, "protein")
    names = feature_names(adata, key, table, "protein")
    table = dense(table, f"obsm[{key!r}]")
    try:
        if isinstance(table, pd.DataFrame):
            values = table.to_numpy(dtype=np.float64, na_value=np.nan)
        else:
            values = np.asarray(table, dtype=np.float64)
    except (TypeError, ValueError) as error:
        msg = f"obsm[{key!r}] is not a table of numbers ({error}). Give the raw counts of proteins."
        raise ValueError(msg) from error
    _check(adata, key, values, names, allow_non_integer)
    return pd.DataFrame(values if allow_non_integer else np.rint(values), columns=names)


def _check(adata: AnnData, key: str, values: NDArray, names: list[str], allow_non_integer: bool) -> None:
    """Raise an error that names the first value that is neither a count nor missing."""
    invalid = {
        "values that are not finite": np.isinf(values) | (np.abs(values) > LARGEST),
        "negative values": values < (0 if allow_non_integer else -ROUNDING),
        "non-integer values": ~nearly_whole(values) & ~np.isnan(values),
    }
    if allow_non_integer:
        invalid.pop("non-integer values")
    for kind, mask in invalid.items():
        if mask.any():
            cell, protein = np.unravel_index(int(np.argmax(mask)), mask.shape)
            advice = ", or allow_non_integer=True for ambient-corrected counts" if kind.startswith("non-") else ""
            msg = (
                f"obsm[{key!r}] holds {kind} (cell {str(adata.obs_names[cell])!r}, protein {names[protein]!r}: "
                f"{values[cell, protein]:.6g}): these look normalised. Give the raw counts of proteins{advice}; NaN "
                "where one was not measured."
            )
            raise ValueError(msg)
