"""Check the complete record of a stored model before it is used.

A record comes from a file, and a file may come from anyone. The checks are: each field (`_schema`), whether the fields
agree with each other, and whether the weights have the shapes that the configuration requires (`_record_weights`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import _schema as schema
from ._names import JOIN
from ._record_weights import FORMAT, FORMAT_1
from ._schema import Damaged
from .model.config import ModelConfig
from .model.likelihood import LIKELIHOODS, LINKS
from .model.network import ACTIVATIONS, NORMS
from .model.penalty import PENALTIES
from .model.prior import PRIORS

LIKELIHOOD_NAMES = list(LIKELIHOODS)
RENAMED_SINCE_1 = {
    "n_conditions": "n_batches",
    "condition_width": "batch_width",
    "condition_code": "batch_code",
    "condition_group": "batch_group",
}
MAX_LAYERS = 100
text, integer, number, flag, sequence, names = (
    schema.text,
    schema.integer,
    schema.number,
    schema.flag,
    schema.sequence,
    schema.names,
)
positive = number(0, above=True)
choices: dict[str, schema.Check] = {
    "activation": text(*ACTIVATIONS),
    "norm": text(*NORMS),
    "likelihood": text(*LIKELIHOOD_NAMES),
    "dispersion": text("gene", "gene-batch"),
    "link": text(*LINKS),
    "size_factor_as": text("multiplier", "covariate"),
    "prior": text(*PRIORS),
}
COVARIATE = schema.either(
    schema.fields({"key": text(), "mean": number(), "sd": positive}),
    schema.fields({"key": text(), "names": names(least=1), "shares": sequence(number(0, 1))}),
)
PROTEINS = schema.either(
    schema.fields({}), schema.fields({"names": names(least=1), "measured": sequence(sequence(flag))})
)
CONFIG = {
    **choices,
    "n_genes": integer(1),
    "n_batches": integer(),
    "n_latent": integer(1),
    "hidden": sequence(integer(1), most=MAX_LAYERS),
    "decoder_hidden": sequence(integer(1), most=MAX_LAYERS),
    "dropout": number(0, 0.9),
    "n_components": integer(1),
    "batch_width": integer(),
    "batch_code": sequence(integer()),
    "batch_group": sequence(integer()),
    "encode_batch": flag,
    "batch_offsets": flag,
    "alignment_clusters": integer(),
    "embedding_map": flag,
    "n_covariates": integer(),
    "labels": names(),
    "n_proteins": integer(),
    "n_peaks": integer(),
    "penalties": schema.fields(dict.fromkeys(PENALTIES, number(0)), optional=PENALTIES),
    "size_factor_mean": positive,
    "covariates": sequence(COVARIATE),
    "proteins": PROTEINS,
    "peaks": names(),
}
OPTIONAL = {field.name for field in fields(ModelConfig) if field.default is not MISSING} | {
    "penalties",
    "covariates",
    "proteins",
    "peaks",
}
PARAMS = {
    **choices,
    "layer": schema.either(schema.nothing, text()),
    "mask_var": schema.either(text(), schema.array("b", None)),
    "controls": schema.either(text(), schema.array("b", None)),
    "covariate_keys": sequence(text()),
    "hidden": sequence(integer(1)),
    "decoder_hidden": sequence(integer(1)),
    "method": text("vae", "cvae"),
    "condition": text("embedding", "onehot"),
    "overlap": text("auto", "all"),
    "time_key": text(),
    "rng": integer(0, 2**63 - 1),
    "warmup": number(0, 1),
    "dropout": number(0, 0.9),
    "validation_fraction": number(0, 0.9),
    "learning_rate": positive,
    "target_kl": positive,
    "batch_key": schema.BATCH_KEY,
    **dict.fromkeys(("size_factor", "protein_key", "peaks_key", "labels_key", "device", "version"), text()),
    **dict.fromkeys(("n_latent", "n_components", "n_steps", "batch_size", "patience"), integer(1)),
    **dict.fromkeys(("beta", "free_bits", "weight_decay", "adversary", "mmd"), number(0)),
    **dict.fromkeys(("allow_non_integer", "encode_batch", "align"), flag),
}
STATUSES = (
    *("converged", "still_improving", "overfitted", "worse_than_pca", "not_judged"),
    *("stopped_early", "interrupted"),
)
VERDICT = schema.fields(
    {
        "status": text(*STATUSES),
        "posterior_collapse": flag,
        "best_step": integer(),
        "kept_step": integer(),
        "setbacks": integer(),
        "message": text(),
    },
    optional={"setbacks"},
)
QUERY = schema.fields(
    {
        "n_reference": integer(),
        "n_genes": integer(),
        "missing_genes": names(),
        "new_batches": names(),
        "label_key": text(),
    },
    optional={"label_key"},
)
check_params = schema.fields(PARAMS, optional=PARAMS, others=schema.plain)


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Facts about a fitted model and the cells that it was fitted on.

    Attributes
    ----------
    genes, batches
        Names in the order of the model; `batches` is empty for a model without batches.
    size_factor_mean
        Mean size factor of the fitted cells; size factors are divided by it.
    covariates, proteins
        How columns of `obs` become numbers for the model; the names of the proteins and the batches that measured them.
    peaks
        Names of the peaks; empty for a model without peaks.
    params
        The parameters of the fit.
    groups
        For each batch, its group of batches with cells of the same kinds (`fit.overlap`).
    """

    genes: list[str]
    batches: list[str]
    size_factor_mean: float
    covariates: list[dict[str, Any]]
    proteins: dict[str, Any]
    peaks: list[str]
    params: dict[str, Any]
    groups: NDArray[np.int64]


class CheckedRecord(NamedTuple):
    """All of a record except the weights."""

    format: str
    config: ModelConfig
    facts: ModelFacts


def check_record(record: Mapping[str, Any]) -> CheckedRecord:
    """Check everything in a record except the weights: each field, and that the fields agree."""
    model = schema.fields(
        {
            "format": text(FORMAT, FORMAT_1),
            "config": schema.parse_json,
            "genes": names(least=1),
            "batches": names(),
            "weights": schema.anything,
        },
        others=schema.anything,
    )(record["model"], "model")
    genes, batches = model["genes"], model["batches"]
    config_fields = model["config"]
    if model["format"] == FORMAT_1 and isinstance(config_fields, dict):
        config_fields = {RENAMED_SINCE_1.get(name, name): value for name, value in config_fields.items()}
    config = schema.fields(CONFIG, optional=OPTIONAL)(config_fields, "model['config']")
    size_factor_mean, covariates = config.pop("size_factor_mean"), config.pop("covariates", [])
    proteins, peaks = config.pop("proteins", {}), list(config.pop("peaks", []))
    model_config = ModelConfig.from_json(config)
    _check_agreement(model_config, len(genes), len(batches), covariates, proteins, peaks)
    params = check_params(record["params"], "params")
    for name, is_needed in (("batch_key", batches), ("protein_key", proteins), ("peaks_key", peaks)):
        if is_needed and name not in params:
            raise Damaged(f"params lacks {name!r}")
    key = params.get("batch_key", "")
    if not isinstance(key, str) and any(len(name.split(JOIN)) != len(key) for name in batches):
        raise Damaged(f"model['batches'] are not combinations of {key}")
    groups = np.empty(0, np.int64)
    if batches:
        groups = _check_overlap(record, batches)
    VERDICT(record.get("verdict"), "verdict")
    if "history" in record:
        check_history(record["history"], model_config.n_latent)
    if "components" in record:
        per_component = schema.array("fiu", model_config.n_components, low=0, high=1 + 1e-3)
        is_live = schema.array("b", model_config.n_components)
        schema.fields({"weight": per_component, "share": per_component, "live": is_live})(
            record["components"], "components"
        )
    if "labels" in record:
        labels = schema.fields({"names": names(len(model_config.labels))}, others=number())(record["labels"], "labels")
        if tuple(labels["names"]) != model_config.labels:
            raise Damaged("labels['names'] are not those of the model")
    if "query" in record:
        QUERY(record["query"], "query")
    # arrays stay unchanged: they are written again with later results of the model
    params_and_arrays = {
        name: value if isinstance(value, np.ndarray) and value.ndim and name != "batch_key" else params[name]
        for name, value in record["params"].items()
    }
    facts = ModelFacts(
        genes=genes,
        batches=batches,
        size_factor_mean=size_factor_mean,
        covariates=covariates,
        proteins=proteins,
        peaks=peaks,
        params=params_and_arrays,
        groups=groups,
    )
    return CheckedRecord(model["format"], model_config, facts)


def _check_agreement(
    config: ModelConfig,
    n_genes: int,
    n_batches: int,
    covariates: list[dict[str, Any]],
    proteins: dict[str, Any],
    peaks: list[str],
) -> None:
    """Refuse a configuration that contradicts itself or the names of genes, batches, covariates, proteins and peaks."""
    n_columns = 0
    for i, covariate in enumerate(covariates):
        if "names" in covariate and len(covariate["shares"]) != len(covariate["names"]):
            raise Damaged(f"model['config']['covariates'][{i}] has not one share for each name")
        n_columns += len(covariate.get("names", "1"))
    protein_names, measured = proteins.get("names", []), proteins.get("measured", [])
    numbers = {
        "n_genes": (config.n_genes, n_genes, "genes"),
        "n_batches": (config.n_batches, n_batches, "batches"),
        "n_covariates": (config.n_covariates, n_columns, "columns of covariates"),
        "n_proteins": (config.n_proteins, len(protein_names), "names of proteins"),
        "n_peaks": (config.n_peaks, len(peaks), "names of peaks"),
    }
    for name, (stated, n_found, what) in numbers.items():
        if stated != n_found:
            raise Damaged(f"model['config'][{name!r}] is {stated}, but there are {n_found} {what}")
    for name in ("batch_code", "batch_group"):
        codes = getattr(config, name)
        if codes and (len(codes) != n_batches or max(codes) >= n_batches):
            raise Damaged(f"model['config'][{name!r}] holds no code for each of {n_batches} batches")
    if proteins and (len(measured) != max(n_batches, 1) or any(len(row) != len(protein_names) for row in measured)):
        raise Damaged("model['config']['proteins']['measured'] is not batches x proteins")
    agreements = {
        "labels": ("labels" in config.penalties) == bool(config.labels),
        "n_proteins": ("protein" in config.penalties) == bool(config.n_proteins),
        "n_peaks": ("peaks" in config.penalties) == bool(config.n_peaks),
        "penalties": bool(n_batches) or not {"adversary", "mmd"} & set(config.penalties),
        "dispersion": bool(n_batches) or config.dispersion == "gene",
        "prior": bool(n_batches) or config.prior != "conditional",
        "alignment_clusters": bool(n_batches) or not config.alignment_clusters,
        "batch_width": bool(n_batches) or not config.batch_width,
        "batch_offsets": bool(n_batches) or not config.batch_offsets,
    }
    for name, agrees in agreements.items():
        if not agrees:
            raise Damaged(f"model['config'][{name!r}] does not fit the rest of the model")


def _check_overlap(record: Mapping[str, Any], batches: list[str]) -> NDArray[np.int64]:
    """The group of each batch."""
    n = len(batches)
    overlap = schema.fields(
        {
            "batches": names(n),
            "group": schema.array("iu", n, low=0, high=n - 1),
            "compared": schema.array("iu", None, low=0, high=n - 1),
            "share": schema.array("fiu", None, None, low=0, high=1 + 1e-6, gaps=True),
        },
        optional={"compared"},  # in older records, all batches were compared
    )(record.get("overlap"), "overlap")
    n_compared = len(overlap.get("compared", batches))
    if overlap["share"].shape != (n_compared, n_compared):
        raise Damaged(f"overlap['share'] has the shape {overlap['share'].shape}, not that of {n_compared} batches")
    groups: NDArray[np.int64] = overlap["group"].astype(np.int64)
    if overlap["batches"] != batches:
        raise Damaged("overlap is not of the batches of the model")
    return groups


def check_history(history: Any, n_latent: int | None) -> None:
    checked = schema.fields(
        {"step": schema.array("iu", None, low=0, high=schema.LARGEST_SIZE)}, others=schema.anything
    )(history, "history")
    steps = checked["step"]
    if (np.diff(steps) <= 0).any():
        raise Damaged("history['step'] does not ascend")
    rate = schema.array("fiu", len(steps), low=0)
    loss = schema.array("fiu", len(steps), low=-1e300, high=1e300, gaps=True)
    columns = {
        "step": schema.anything,
        "active_units": schema.array("iu", len(steps), low=0, high=n_latent or schema.LARGEST_SIZE),
        **dict.fromkeys(("epoch", "beta", "learning_rate", "seconds"), rate),
        "kl_per_dim": schema.array("fiu", len(steps), n_latent, low=-1e30, high=1e30, gaps=True),
    }
    if len(steps):
        schema.fields(columns, others=loss)(history, "history")
