"""From an AnnData to what a fit reads: counts, batches, and what else is known of the cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import _adata
from ..data.counts import Counts
from ..fit.classify import hold_back
from ..fit.distributed import Processes
from ..fit.state import FitConfig
from ..model.labels import UNKNOWN
from ._counts import counts_to_fit
from ._covariates import learn_covariates, read_covariates
from ._labels import read_labels
from ._proteins import learn_proteins, read_proteins

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass
class Inputs:
    """What a fit is made from.

    Attributes
    ----------
    counts
        The cells, with what is beside their counts.
    options
        How they are fitted.
    genes, batches
        Names; no batches for `tl.vae`.
    size_factor_mean
        What the size factors were divided by.
    covariates, proteins
        What makes numbers of them, for cells that come later too; empty without.
    label, labels
        Code of each cell's label (-1 for none) and their names; empty without.
    judges
        Cells whose labels the fit does not see.
    """

    counts: Counts
    options: FitConfig
    genes: NDArray[np.str_]
    batches: NDArray[np.str_]
    size_factor_mean: float
    covariates: list[dict[str, Any]]
    proteins: dict[str, Any]
    label: NDArray[np.int64]
    labels: tuple[str, ...]
    judges: NDArray[np.int64]


def read_inputs(adata: AnnData, params: Mapping[str, Any], seed: int, processes: Processes) -> Inputs:
    """Everything, checked; what is cheap to check comes first."""
    batch_key, allowed = params.get("batch_key"), params["allow_non_integer"]
    codes, batches = np.zeros(adata.n_obs, np.int64), np.array([], dtype=str)
    if "batch_key" in params:
        codes, batches = _adata.read_batches(adata, params["batch_key"])
    covariates = learn_covariates(adata, params["covariate_keys"] or [], batch_key)
    side_inputs: dict[str, NDArray] = {"covariates": read_covariates(adata, covariates)} if covariates else {}
    label = judges = np.array([], np.int64)
    labels: tuple[str, ...] = ()
    if params["labels_key"] is not None:
        label, labels = read_labels(adata, params["labels_key"], params["unlabeled"], batch_key)
        judges = hold_back(label, seed)
        side_inputs["label"] = np.where(np.isin(np.arange(len(label)), judges), UNKNOWN, label)
    proteins: dict[str, Any] = {}
    if (protein_key := params["protein_key"]) is not None:
        proteins = learn_proteins(adata, protein_key, codes, batches, allowed)
        side_inputs["protein"] = read_proteins(adata, protein_key, proteins, codes, allowed)
    read = counts_to_fit(adata, params, codes, side_inputs, seed, processes)
    return Inputs(*read[:3], batches, read.size_factor_mean, covariates, proteins, label, labels, judges)
