"""From an AnnData to what a fit reads: counts, batches, and what else is known of the cells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import _adata
from .._disk import on_disk
from ..fit.batches import Counts
from ..fit.classify import hold_back
from ..fit.distributed import Processes
from ..fit.loop import FitConfig
from ..fit.schedule import MOST_STEPS, default_steps, default_weight_decay
from ..model.labels import UNKNOWN
from ._covariates import learn_covariates, read_covariates
from ._labels import read_labels
from ._proteins import learn_proteins, read_proteins
from ._stored import counts_to_fit, depth_on_disk, disk_counts

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
    mask = _adata.gene_mask(adata, params["mask_var"])
    counts: Counts
    stored = on_disk(*_adata.matrix_of(adata, params["layer"]))
    processes.check_same({"whether counts are on disk": stored})
    if stored:
        disk = disk_counts(adata, params, mask)
        options = _fit_config(params, adata.n_obs, int(mask.sum()), partial(depth_on_disk, disk))
        counts, genes, mean = counts_to_fit(adata, params, disk, codes, side_inputs, options, seed, processes)
    else:
        matrix = _adata.read_counts(adata, params["layer"], mask, allow_non_integer=allowed)
        matrix, genes = _adata.without_silent_genes(matrix, adata.var_names[mask].to_numpy(dtype=str))
        size_factor = _adata.read_size_factor(adata, params["size_factor"], matrix)
        mean = size_factor.mean()
        counts = Counts(matrix, (size_factor / mean).astype(np.float32), codes, side_inputs)
        options = _fit_config(params, adata.n_obs, int(mask.sum()), counts.typical_depth)
    return Inputs(counts, options, genes, batches, mean, covariates, proteins, label, labels, judges)


def _fit_config(params: Mapping[str, Any], n_cells: int, n_genes: int, depth: Callable[[], float]) -> FitConfig:
    """What was asked for, and where that is None what the data choose; their depth is asked for if it matters."""
    chosen = {field.name: params[field.name] for field in fields(FitConfig)}
    if chosen["n_steps"] is None:
        at_least = default_steps(n_cells, n_genes, 0)
        chosen["n_steps"] = at_least if at_least == MOST_STEPS else default_steps(n_cells, n_genes, depth())
    if chosen["weight_decay"] is None:
        chosen["weight_decay"] = default_weight_decay(n_cells)
    return FitConfig(**chosen)
