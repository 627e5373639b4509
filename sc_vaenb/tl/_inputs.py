"""From an AnnData to what a fit reads: counts, batches, and what else is known of the cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import _adata
from ..data.counts import Counts
from ..fit.align import n_clusters
from ..fit.classify import hold_back
from ..fit.distributed import Processes
from ..fit.overlap import Overlap
from ..fit.state import FitConfig
from ..model.config import ModelConfig
from ..model.labels import UNKNOWN
from ..model.protein import protein_weight
from ._arguments import BATCH_PENALTIES
from ._counts import counts_to_fit
from ._covariates import learn_covariates, read_covariates
from ._labels import read_labels
from ._proteins import learn_proteins, read_proteins

if TYPE_CHECKING:
    from anndata import AnnData


LABELS_WEIGHT = 10.0  # of the cross-entropy of known labels: 50 learns few of them by heart, to the others' cost
BATCH_EMBEDDING_WIDTH = 10  # dimensions of a learned batch embedding, or fewer where there are fewer batches


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
    calibration_cells
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
    calibration_cells: NDArray[np.int64]


def read_inputs(adata: AnnData, params: Mapping[str, Any], seed: int, processes: Processes) -> Inputs:
    """Everything, checked; what is cheap to check comes first."""
    batch_key, allowed = params.get("batch_key"), params["allow_non_integer"]
    codes, batches = np.zeros(adata.n_obs, np.int64), np.array([], dtype=str)
    if "batch_key" in params:
        codes, batches = _adata.read_batches(adata, params["batch_key"])
    covariates = learn_covariates(adata, params["covariate_keys"] or [], batch_key)
    side_inputs: dict[str, NDArray] = {"covariates": read_covariates(adata, covariates)} if covariates else {}
    label = calibration_cells = np.array([], np.int64)
    labels: tuple[str, ...] = ()
    if params["labels_key"] is not None:
        label, labels = read_labels(adata, params["labels_key"], params["unlabeled"], batch_key)
        calibration_cells = hold_back(label, seed)
        side_inputs["label"] = np.where(np.isin(np.arange(len(label)), calibration_cells), UNKNOWN, label)
    proteins: dict[str, Any] = {}
    if (protein_key := params["protein_key"]) is not None:
        proteins = learn_proteins(adata, protein_key, codes, batches, allowed)
        side_inputs["protein"] = read_proteins(adata, protein_key, proteins, codes, allowed)
    read = counts_to_fit(adata, params, codes, side_inputs, seed, processes)
    return Inputs(*read[:3], batches, read.size_factor_mean, covariates, proteins, label, labels, calibration_cells)


def model_config(params: Mapping[str, Any], inputs: Inputs, overlap: Overlap) -> ModelConfig:
    n_genes, n_cells = len(inputs.genes), len(inputs.counts)
    n_covariates, n_proteins = (
        inputs.counts.side_inputs[name].shape[1] if name in inputs.counts.side_inputs else 0
        for name in ("covariates", "protein")
    )
    hidden = tuple(params["hidden"])
    mirrored = params["decoder_hidden"] is None
    names = ["n_latent", "activation", "norm", "dropout", "likelihood", "dispersion", "link", "size_factor_as"]
    names += ["prior", "n_components"]
    conditional: dict[str, Any] = {}
    n_batches, codes = len(overlap.group), overlap.code().tolist()
    if n_batches:
        conditional = {
            "encode_batch": params["encode_batch"],
            "batch_code": tuple(codes),
            "batch_group": tuple(overlap.group.tolist()),
            "batch_width": min(BATCH_EMBEDDING_WIDTH, max(codes) + 1) if params["condition"] == "embedding" else 0,
            "alignment_clusters": n_clusters(n_cells) if params["align"] else 0,
        }
    penalties = {name: params.get(name, 0) for name in BATCH_PENALTIES} | {
        "labels": LABELS_WEIGHT if inputs.labels else 0,
        "protein": protein_weight(n_genes, n_proteins) if n_proteins else 0,
    }
    return ModelConfig(
        n_genes=n_genes,
        n_batches=n_batches,
        hidden=hidden,
        decoder_hidden=hidden[::-1] if mirrored else tuple(params["decoder_hidden"]),
        n_covariates=n_covariates,
        labels=inputs.labels,
        n_proteins=n_proteins,
        penalties={name: float(weight) for name, weight in penalties.items() if weight},
        **{name: params[name] for name in names},
        **conditional,
    )
