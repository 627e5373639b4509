"""The cells of an AnnData as a fitted model takes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import _adata
from .._record import FittedModel
from ..fit.batches import Counts
from ._covariates import read_covariates
from ._proteins import read_proteins

if TYPE_CHECKING:
    from anndata import AnnData

load_model = FittedModel.from_uns


def counts_of(
    adata: AnnData, key: str, stored: FittedModel, *, batches: bool = True, params: Mapping[str, Any] | None = None
) -> Counts:
    """The cells' counts, size factors and batch codes, read from where the model in `uns[key]` was fitted on them.

    Or from where `params` says, for cells without a record.

    Genes are matched by name. Codes are zero where the model does not know batches, or these are not asked for.
    """
    params = stored.params if params is None else params
    order = _adata.locate_genes(adata, stored.genes, key)
    mask = np.zeros(adata.n_vars, dtype=bool)
    mask[order] = True
    allowed = bool(params.get("allow_non_integer", False))
    matrix = _adata.read_counts(adata, params.get("layer"), mask, allow_non_integer=allowed)
    if (np.diff(order) < 0).any():  # the genes stand in another order than in the model
        matrix = matrix[:, np.argsort(np.argsort(order))]
    size_factor = _adata.read_size_factor(adata, params.get("size_factor"), matrix) / stored.size_factor_mean
    codes = np.zeros(len(size_factor), np.int64)
    if stored.batches and (batches or stored.proteins):
        codes = _adata.batch_codes(adata, params["batch_key"], stored.batches)
    return Counts(matrix, size_factor.astype(np.float32), codes, side_inputs_of(adata, stored, params, codes))


def side_inputs_of(
    adata: AnnData, stored: FittedModel, params: Mapping[str, Any], codes: NDArray[np.int64]
) -> dict[str, NDArray[np.float32]]:
    """What else a model is told of each cell."""
    side_inputs = {"covariates": read_covariates(adata, stored.covariates)} if stored.covariates else {}
    if stored.proteins:
        allowed = bool(params.get("allow_non_integer", False))
        side_inputs["protein"] = read_proteins(adata, params["protein_key"], stored.proteins, codes, allowed)
    return side_inputs
