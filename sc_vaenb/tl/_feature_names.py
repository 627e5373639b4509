"""Names of the columns of a table of counts in `obsm`: proteins, or peaks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from .. import _adata

if TYPE_CHECKING:
    from anndata import AnnData

Kind = Literal["protein", "peak"]


def read_table(adata: AnnData, key: str, kind: Kind) -> Any:
    """The table in `obsm`, as it is."""
    if key not in adata.obsm:
        argument = {"protein": "protein_key", "peak": "peaks_key"}[kind]
        msg = f"{argument}={key!r} is not in adata.obsm, which holds {_adata.keys(adata.obsm)}. Choose one of these."
        raise KeyError(msg)
    return adata.obsm[key]


def feature_names(adata: AnnData, key: str, table: Any, kind: Kind) -> list[str]:
    """Names of the features: the columns of a DataFrame, or those in `uns`, or made up."""
    in_uns = f"{kind}_names"
    if isinstance(table, pd.DataFrame):
        names, slot = [str(name) for name in table.columns], f"The columns of obsm[{key!r}]"
    elif table.ndim != 2 or not table.shape[1]:
        msg = f"obsm[{key!r}] has the shape {table.shape}. Give counts of {kind}s, cells x {kind}s."
        raise ValueError(msg)
    elif in_uns in adata.uns:
        names, slot = [str(name) for name in np.ravel(adata.uns[in_uns])], f"uns[{in_uns!r}]"
        if len(names) != table.shape[1]:
            msg = (
                f"uns[{in_uns!r}] holds {len(names)} names, but obsm[{key!r}] has {table.shape[1]} columns. Give one "
                "name for each, or a DataFrame with the names as its columns."
            )
            raise ValueError(msg)
    else:
        return [f"{kind}_{i}" for i in range(table.shape[1])]
    if not names or len(set(names)) < len(names):
        msg = f"{slot} hold {len(names)} names of {kind}s, {len(set(names))} of them different. Give each its own."
        raise ValueError(msg)
    return names


def check_any_known(key: str, known: list[str], found: pd.Index, kind: Kind) -> None:
    """Refuse a table without any feature of the model."""
    if not found.isin(known).any():
        some = ", ".join(map(repr, found[:3])) + (", ..." if len(found) > 3 else "")
        msg = (
            f"obsm[{key!r}] holds none of the {len(known)} {kind}s of the model (first: {known[0]!r}), but {some}. "
            f"Name them as in the fit, or remove obsm[{key!r}]."
        )
        raise ValueError(msg)
