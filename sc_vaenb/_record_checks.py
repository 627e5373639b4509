"""A stored model, checked as a whole before anything is made of it.

A record comes from a file, and a file may come from anyone. First its own fields are checked (`_schema`), then whether
they agree with each other, then that the weights have the shapes that the configuration asks for (`_record_weights`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _schema as schema
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
text, whole, number, flag, sequence, names = (
    schema.text,
    schema.whole,
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
    "n_genes": whole(1),
    "n_batches": whole(),
    "n_latent": whole(1),
    "hidden": sequence(whole(1), most=MAX_LAYERS),
    "decoder_hidden": sequence(whole(1), most=MAX_LAYERS),
    "dropout": number(0, 0.9),
    "n_components": whole(1),
    "batch_width": whole(),
    "batch_code": sequence(whole()),
    "batch_group": sequence(whole()),
    "encode_batch": flag,
    "alignment_clusters": whole(),
    "n_covariates": whole(),
    "labels": names(),
    "n_proteins": whole(),
    "penalties": schema.fields(dict.fromkeys(PENALTIES, number(0)), optional=PENALTIES),
    "size_factor_mean": positive,
    "covariates": sequence(COVARIATE),
    "proteins": PROTEINS,
}
OPTIONAL = {field.name for field in fields(ModelConfig) if field.default is not MISSING} | {
    "penalties",
    "covariates",
    "proteins",
}
PARAMS = {
    **choices,
    "layer": schema.either(schema.nothing, text()),
    "mask_var": schema.either(text(), schema.array("b", None)),
    "covariate_keys": sequence(text()),
    "hidden": sequence(whole(1)),
    "decoder_hidden": sequence(whole(1)),
    "method": text("vae", "cvae"),
    "condition": text("embedding", "onehot"),
    "overlap": text("auto", "all"),
    "rng": whole(0, 2**63 - 1),
    "warmup": number(0, 1),
    "dropout": number(0, 0.9),
    "validation_fraction": number(0, 0.9),
    "learning_rate": positive,
    "target_kl": positive,
    **dict.fromkeys(("batch_key", "size_factor", "protein_key", "labels_key", "device", "version"), text()),
    **dict.fromkeys(("n_latent", "n_components", "n_steps", "batch_size", "patience"), whole(1)),
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
        "best_step": whole(),
        "kept_step": whole(),
        "setbacks": whole(),
        "message": text(),
    },
    optional={"setbacks"},
)
QUERY = schema.fields(
    {
        "n_reference": whole(),
        "n_genes": whole(),
        "missing_genes": names(),
        "new_batches": names(),
        "label_key": text(),
    },
    optional={"label_key"},
)
check_params = schema.fields(PARAMS, optional=PARAMS, others=schema.plain)


@dataclass(frozen=True)
class Parts:
    """The checked parts of a record, but for the weights."""

    format: str
    config: ModelConfig
    genes: list[str]
    batches: list[str]
    size_factor_mean: float
    covariates: list[dict[str, Any]]
    proteins: dict[str, Any]
    params: dict[str, Any]
    groups: NDArray[np.int64]


def check_record(record: Mapping[str, Any]) -> Parts:
    """Check all of a record but the weights: each field, and that the fields agree."""
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
    stated = model["config"]
    if model["format"] == FORMAT_1 and isinstance(stated, dict):
        stated = {RENAMED_SINCE_1.get(name, name): value for name, value in stated.items()}
    config = schema.fields(CONFIG, optional=OPTIONAL)(stated, "model['config']")
    mean, covariates = config.pop("size_factor_mean"), config.pop("covariates", [])
    proteins = config.pop("proteins", {})
    checked = ModelConfig.from_json(config)
    _check_agreement(checked, len(genes), len(batches), covariates, proteins)
    params = check_params(record["params"], "params")
    for name, needed in (("batch_key", batches), ("protein_key", proteins)):
        if needed and name not in params:
            raise Damaged(f"params lacks {name!r}")
    groups = np.empty(0, np.int64)
    if batches:
        groups = _check_overlap(record, batches)
    VERDICT(record.get("verdict"), "verdict")
    if "history" in record:
        check_history(record["history"], checked.n_latent)
    if "components" in record:
        each = schema.array("fiu", checked.n_components, low=0, high=1 + 1e-3)
        live = schema.array("b", checked.n_components)
        schema.fields({"weight": each, "share": each, "live": live})(record["components"], "components")
    if "labels" in record:
        labels = schema.fields({"names": names(len(checked.labels))}, others=number())(record["labels"], "labels")
        if tuple(labels["names"]) != checked.labels:
            raise Damaged("labels['names'] are not those of the model")
    if "query" in record:
        QUERY(record["query"], "query")
    # arrays stay as they are: they are written again with what is made of the model
    given = {
        name: value if isinstance(value, np.ndarray) and value.ndim else params[name]
        for name, value in record["params"].items()
    }
    return Parts(model["format"], checked, genes, batches, mean, covariates, proteins, given, groups)


def _check_agreement(
    config: ModelConfig,
    n_genes: int,
    n_batches: int,
    covariates: list[dict[str, Any]],
    proteins: dict[str, Any],
) -> None:
    """Refuse a configuration that is at odds with itself, or with the names beside it."""
    n_columns = 0
    for at, covariate in enumerate(covariates):
        if "names" in covariate and len(covariate["shares"]) != len(covariate["names"]):
            raise Damaged(f"model['config']['covariates'][{at}] has not one share for each name")
        n_columns += len(covariate.get("names", "1"))
    protein_names, measured = proteins.get("names", []), proteins.get("measured", [])
    numbers = {
        "n_genes": (config.n_genes, n_genes, "genes"),
        "n_batches": (config.n_batches, n_batches, "batches"),
        "n_covariates": (config.n_covariates, n_columns, "columns of covariates"),
        "n_proteins": (config.n_proteins, len(protein_names), "names of proteins"),
    }
    for name, (stated, there, what) in numbers.items():
        if stated != there:
            raise Damaged(f"model['config'][{name!r}] is {stated}, but there are {there} {what}")
    for name in ("batch_code", "batch_group"):
        codes = getattr(config, name)
        if codes and (len(codes) != n_batches or max(codes) >= n_batches):
            raise Damaged(f"model['config'][{name!r}] holds no code for each of {n_batches} batches")
    if proteins and (
        len(measured) != max(n_batches, 1) or any(len(of_batch) != len(protein_names) for of_batch in measured)
    ):
        raise Damaged("model['config']['proteins']['measured'] is not batches x proteins")
    needs = {
        "labels": ("labels" in config.penalties) == bool(config.labels),
        "n_proteins": ("protein" in config.penalties) == bool(config.n_proteins),
        "penalties": bool(n_batches) or not {"adversary", "mmd"} & set(config.penalties),
        "dispersion": bool(n_batches) or config.dispersion == "gene",
        "prior": bool(n_batches) or config.prior != "conditional",
        "alignment_clusters": bool(n_batches) or not config.alignment_clusters,
        "batch_width": bool(n_batches) or not config.batch_width,
    }
    for name, good in needs.items():
        if not good:
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
        optional={"compared"},  # as all were, in older records
    )(record.get("overlap"), "overlap")
    n_compared = len(overlap.get("compared", batches))
    if overlap["share"].shape != (n_compared, n_compared):
        raise Damaged(f"overlap['share'] has the shape {overlap['share'].shape}, not that of {n_compared} batches")
    groups: NDArray[np.int64] = overlap["group"].astype(np.int64)
    if overlap["batches"] != batches:
        raise Damaged("overlap is not of the batches of the model")
    return groups


def check_history(history: Any, n_latent: int | None) -> None:
    found = schema.fields({"step": schema.array("iu", None, low=0, high=schema.LARGEST_SIZE)}, others=schema.anything)(
        history, "history"
    )
    steps = found["step"]
    if (np.diff(steps) <= 0).any():
        raise Damaged("history['step'] does not ascend")
    rate = schema.array("fiu", len(steps), low=0)
    loss = schema.array("fiu", len(steps), low=-1e300, high=1e300, gaps=True)
    known = {
        "step": schema.anything,
        "active_units": schema.array("iu", len(steps), low=0, high=n_latent or schema.LARGEST_SIZE),
        **dict.fromkeys(("epoch", "beta", "learning_rate", "seconds"), rate),
        "kl_per_dim": schema.array("fiu", len(steps), n_latent, low=-1e30, high=1e30, gaps=True),
    }
    if len(steps):
        schema.fields(known, others=loss)(history, "history")
