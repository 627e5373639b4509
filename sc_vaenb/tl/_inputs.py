"""Read the inputs of a fit from an AnnData: counts, batches, covariates, labels, proteins and peaks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import _obs
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
from ._peaks import learn_peaks
from ._proteins import learn_proteins, read_proteins

if TYPE_CHECKING:
    from anndata import AnnData


LABELS_WEIGHT = 10.0  # weight of the cross-entropy of known labels; 50 overfits them if they are few
BATCH_EMBEDDING_WIDTH = 10  # dimensions of a learned batch embedding; at most the number of batches


@dataclass
class Inputs:
    """The inputs of a fit.

    Attributes
    ----------
    counts
        Counts of the cells, with their side inputs.
    options
        The options of the fit.
    genes, batches
        Names; `batches` is empty for `tl.vae`.
    size_factor_mean
        The size factors were divided by this.
    covariates, proteins
        How columns of `obs` and tables of proteins become numbers, also for later cells; empty if there are none.
    peaks
        Names of the peaks; empty if there are none.
    label, labels
        Label code of each cell (-1 for none), and the names of the labels; empty if there are none.
    control
        Which cells are of control samples; None where this was not given.
    time
        The code of the time point of each cell; None where this was not given.
    calibration_cells
        Cells whose labels are held back from the fit.
    """

    counts: Counts
    options: FitConfig
    genes: NDArray[np.str_]
    batches: NDArray[np.str_]
    size_factor_mean: float
    covariates: list[dict[str, Any]]
    proteins: dict[str, Any]
    peaks: list[str]
    label: NDArray[np.int64]
    labels: tuple[str, ...]
    control: NDArray[np.bool_] | None
    time: NDArray[np.int64] | None
    calibration_cells: NDArray[np.int64]

    @property
    def has_offsets(self) -> bool:
        """Whether a first model shows the offsets of the batches, by which a second one only shifts expression."""
        return self.control is not None or self.time is not None


def read_inputs(adata: AnnData, params: Mapping[str, Any], seed: int, processes: Processes) -> Inputs:
    """Read and check all inputs; the cheap checks come first."""
    batch_key, allow_non_integer = params.get("batch_key"), params["allow_non_integer"]
    codes, batches = np.zeros(adata.n_obs, np.int64), np.array([], dtype=str)
    if "batch_key" in params:
        codes, batches = _obs.read_batches(adata, params["batch_key"])
    controls = params.get("controls")
    control = None if controls is None else _obs.read_controls(adata, controls, codes, batches)
    time_key = params.get("time_key")
    time = None if time_key is None else _obs.read_times(adata, time_key, codes)
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
        proteins = learn_proteins(adata, protein_key, codes, batches, allow_non_integer)
        side_inputs["protein"] = read_proteins(adata, protein_key, proteins, codes, allow_non_integer)
    peaks: list[str] = []
    peak_counts = None
    if (peaks_key := params["peaks_key"]) is not None:
        peaks, peak_counts = learn_peaks(adata, peaks_key, allow_non_integer)
    data = counts_to_fit(adata, params, codes, side_inputs, seed, processes)
    data.counts.peaks = peak_counts
    return Inputs(
        data.counts,
        data.options,
        data.genes,
        batches,
        data.size_factor_mean,
        covariates,
        proteins,
        peaks,
        label,
        labels,
        control,
        time,
        calibration_cells,
    )


def model_config(params: Mapping[str, Any], inputs: Inputs, overlap: Overlap) -> ModelConfig:
    n_genes, n_cells = len(inputs.genes), len(inputs.counts)
    n_covariates, n_proteins = (
        inputs.counts.side_inputs[name].shape[1] if name in inputs.counts.side_inputs else 0
        for name in ("covariates", "protein")
    )
    hidden = tuple(params["hidden"])
    is_mirrored = params["decoder_hidden"] is None
    same_names = ["n_latent", "activation", "norm", "dropout", "likelihood", "dispersion", "link", "size_factor_as"]
    same_names += ["prior", "n_components"]
    batch_options: dict[str, Any] = {}
    n_batches, codes = len(overlap.group), overlap.code().tolist()
    if n_batches:
        batch_options = {
            "encode_batch": params["encode_batch"],
            "batch_code": tuple(codes),
            "batch_group": tuple(overlap.group.tolist()),
            "batch_width": min(BATCH_EMBEDDING_WIDTH, max(codes) + 1) if params["condition"] == "embedding" else 0,
            "alignment_clusters": n_clusters(n_cells) if params["align"] else 0,
        }
    penalties = {name: params.get(name, 0) for name in BATCH_PENALTIES} | {
        "labels": LABELS_WEIGHT if inputs.labels else 0,
        "protein": protein_weight(n_genes, n_proteins) if n_proteins else 0,
        "peaks": 1 if inputs.peaks else 0,
    }
    return ModelConfig(
        n_genes=n_genes,
        n_batches=n_batches,
        hidden=hidden,
        decoder_hidden=hidden[::-1] if is_mirrored else tuple(params["decoder_hidden"]),
        embedding_map=True,
        n_covariates=n_covariates,
        labels=inputs.labels,
        n_proteins=n_proteins,
        n_peaks=len(inputs.peaks),
        penalties={name: float(weight) for name, weight in penalties.items() if weight},
        **{name: params[name] for name in same_names},
        **batch_options,
    )
