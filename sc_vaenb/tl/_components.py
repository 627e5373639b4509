"""The components of a mixture prior as soft clusters of the cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scanpy import logging as logg

from .. import _adata

if TYPE_CHECKING:
    from anndata import AnnData


def order_components(
    assignment: NDArray[np.float32], weight: NDArray[np.float32]
) -> tuple[NDArray[np.float32], dict[str, NDArray]]:
    """The assignment to the components in use, largest first; and a record of all components, unused ones last."""
    live = assignment.max(axis=0) > 0
    order = np.lexsort([-weight, ~live])
    record = {"weight": weight[order], "share": assignment.mean(axis=0)[order], "live": live[order]}
    return assignment[:, order[: live.sum()]], record


def write_components(adata: AnnData, key: str, assignment: NDArray[np.float32] | None, n_components: int) -> list[str]:
    """Write the component probabilities (cells x components) and the likeliest component; return lines for the log."""
    if assignment is None:
        return []
    n_live = assignment.shape[1]
    column, matrix = f"{key}_component", f"{key}_components"
    adata.obs[column] = pd.Categorical.from_codes(assignment.argmax(1), [str(i) for i in range(n_live)])
    _adata.write_array(adata, matrix, assignment)
    message = f"{n_live} of {n_components} components of the prior are used."
    if n_live == n_components > 1:
        message = f"All {n_components} components of the prior are used. There may be more: raise n_components to see."
    logg.info(message)
    return [
        f"{matrix!r}, cells' probabilities of components (adata.obsm)",
        f"{column!r}, the likeliest (adata.obs)",
    ]
