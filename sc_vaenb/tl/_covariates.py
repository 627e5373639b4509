"""Covariates: columns of `obs` that the model gets besides the batch, as numbers, for fitted and for new cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from .. import _obs
from .._names import texts

if TYPE_CHECKING:
    from anndata import AnnData

MAX_CATEGORIES = 100  # a column with more holds names of cells, or numbers read as text


def learn_covariates(
    adata: AnnData, keys: Sequence[str], batch_key: str | Sequence[str] | None
) -> list[dict[str, Any]]:
    """What encodes each column: mean and sd of a numeric column, else the categories and their shares."""
    if len(set(keys)) < len(keys):
        msg = f"covariate_keys={list(keys)} names a column twice. Name it once."
        raise ValueError(msg)
    return [_learn_covariate(adata, key, batch_key) for key in keys]


def _learn_covariate(adata: AnnData, key: str, batch_key: str | Sequence[str] | None) -> dict[str, Any]:
    column = _column(adata, key)
    if batch_key is not None and key in _obs.columns_of(batch_key):
        msg = f"covariate_keys holds {key!r}, which is a batch_key: the model knows it already. Leave it out."
        raise ValueError(msg)
    if _is_numeric(column):
        values = column.to_numpy(dtype=np.float64)
        if values.std() == 0:
            msg = f"obs[{key!r}] is {values[0]:g} for every cell: nothing can be learned from it. Leave it out."
            raise ValueError(msg)
        return {"key": key, "mean": float(values.mean()), "sd": float(values.std())}
    shares = pd.Series(texts(column)).value_counts(normalize=True).sort_index()
    if not 1 < len(shares) <= MAX_CATEGORIES:
        msg = (
            f"obs[{key!r}] has {len(shares)} categories (first: {str(shares.index[0])!r}); give columns with 2 to "
            f"{MAX_CATEGORIES}, or of numbers."
        )
        raise ValueError(msg)
    return {"key": key, "names": shares.index.tolist(), "shares": shares.tolist()}


def read_covariates(adata: AnnData, learned: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
    """One row per cell. Numbers have mean 0 and sd 1; categories are one-hot minus their shares, so the mean is 0."""
    parts = []
    for covariate in learned:
        key = covariate["key"]
        column = _column(adata, key)
        if "names" not in covariate:
            if not _is_numeric(column):
                msg = f"obs[{key!r}] has dtype {column.dtype}, but held numbers in the fit. Convert it."
                raise ValueError(msg)
            parts.append((column.to_numpy(dtype=np.float64)[:, None] - covariate["mean"]) / covariate["sd"])
            continue
        values = texts(column).astype(str)
        new = sorted(set(values.tolist()) - set(covariate["names"]))
        if new:
            msg = f"obs[{key!r}] holds {new}, which the model was not fitted on. It knows {covariate['names']}."
            raise ValueError(msg)
        parts.append((values[:, None] == np.array(covariate["names"])) - np.array(covariate["shares"]))
    return np.concatenate(parts, axis=1).astype(np.float32)


def _column(adata: AnnData, key: str) -> pd.Series:
    _obs.check_obs_key(adata, "covariate_keys", key)
    column = adata.obs[key]
    missing = column.isna().to_numpy()
    if _is_numeric(column):
        missing = missing | ~np.isfinite(column.to_numpy(dtype=np.float64, na_value=np.nan))
    if missing.any():
        first = str(adata.obs_names[int(np.argmax(missing))])
        msg = (
            f"obs[{key!r}] has no value for {missing.sum()} cells (first: {first!r}). "
            "Fill them in, or remove the cells."
        )
        raise ValueError(msg)
    return column


def _is_numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
