"""A fitted model as it is stored: in `uns`, and in a file of its own. Nothing else knows the record.

A record comes from a file, and a file may come from anyone. So it is checked as a whole before anything is made of it:
first its own fields (`_schema`), then whether they agree with each other, then that the weights have the shapes that
the configuration asks for, which is worked out without memory for a single weight.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from . import _schema as schema
from ._schema import Damaged
from .model.config import ModelConfig
from .model.likelihood import LIKELIHOODS, LINKS
from .model.mixture import Mixture
from .model.network import ACTIVATIONS, NORMS
from .model.penalty import PENALTIES
from .model.prior import PRIORS
from .model.vae import CountVAE

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

LIKELIHOOD_NAMES = list(LIKELIHOODS)
FORMAT = "sc_vaenb model 2"
FORMAT_1 = "sc_vaenb model 1"  # the same under other names: they are translated as a record is read
RENAMED_SINCE_1 = {
    "n_conditions": "n_batches",
    "condition_width": "batch_width",
    "condition_code": "batch_code",
    "condition_group": "batch_group",
}
MOST_LAYERS = 100
LARGEST_WEIGHT = 1e12
LARGEST_LOG_VAR = 50.0  # of a component of the prior; its exponential is still a number

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
    "hidden": sequence(whole(1), most=MOST_LAYERS),
    "decoder_hidden": sequence(whole(1), most=MOST_LAYERS),
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
class FittedModel:
    """A model that computes, and what is known of the cells it was fitted on.

    Attributes
    ----------
    genes, batches
        Their names, in the order of the model; no batches where it knows none.
    size_factor_mean
        Of the cells of the fit, by which size factors are divided.
    covariates, proteins
        What makes numbers of the columns of `obs` that it is told; names of the proteins and where they were measured.
    params
        The parameters of the fit.
    groups
        Of each batch, the group of batches that have cells of the same kinds (`fit.overlap`).
    """

    model: CountVAE
    genes: list[str]
    batches: list[str]
    size_factor_mean: float
    covariates: list[dict[str, Any]]
    proteins: dict[str, Any]
    params: dict[str, Any]
    groups: NDArray[np.int64]

    @classmethod
    def from_uns(cls, adata: AnnData, key: str) -> FittedModel:
        """The fitted model in `uns[key]`; only strings, numbers and arrays are read, nothing is executed."""
        record = find(adata, key)
        with damage_told(f"the model in uns[{key!r}] is damaged", "Fit it again, or read the file again."):
            return cls.from_record(record)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> FittedModel:
        """The model of a record, after every check."""
        parts = check_record(record)
        weights = schema.fields({}, others=schema.anything)(record["model"]["weights"], "model['weights']")
        shapes = expected_weights(parts.config, parts.format)
        if missing := [name for name in shapes if name not in weights]:
            raise Damaged(f"model['weights'] lacks {missing[0]!r}")
        if unknown := [name for name in weights if name not in shapes]:
            raise Damaged(f"model['weights'] has {schema.brief(unknown[0])}, which is not known")
        tensors = {_since_1(name): _tensor(name, weights[name], like) for name, like in shapes.items()}
        _check_meaning(tensors, parts.config)
        model = empty_model(parts.config)
        model.load_state_dict(tensors, assign=True)
        return cls(
            model.eval(),
            parts.genes,
            parts.batches,
            parts.size_factor_mean,
            parts.covariates,
            parts.proteins,
            parts.params,
            parts.groups,
        )

    def to_uns(self) -> dict[str, Any]:
        """The model as plain strings and arrays, for the record in `uns`."""
        config = asdict(self.model.config) | {
            "size_factor_mean": self.size_factor_mean,
            "covariates": self.covariates,
            "proteins": self.proteins,
        }
        return {
            "format": FORMAT,
            "config": json.dumps(config),
            "genes": np.asarray(self.genes, dtype=object),
            "batches": np.asarray(self.batches, dtype=object),
            "weights": {name: value.detach().cpu().numpy() for name, value in self.model.state_dict().items()},
        }

    def batch_index(self, batches: Sequence[str]) -> NDArray[np.int64]:
        """The codes of batches that the model knows."""
        position = {name: code for code, name in enumerate(self.batches)}
        return np.array([position[name] for name in batches], np.int64)


def find(adata: AnnData, key: str) -> dict[str, Any]:
    """The record of a fitted model in `uns`, not yet checked, or an error that lists those there are."""
    record = adata.uns.get(key)
    if not _is_record(record):
        fitted = [name for name, value in adata.uns.items() if _is_record(value)]
        msg = f"uns[{key!r}] holds no model fitted by sc_vaenb; uns has {fitted}. Run sc_vaenb.tl.cvae or tl.vae first."
        raise KeyError(msg)
    model = record["model"]
    stated = schema.scalar(model.get("format")) if isinstance(model, Mapping) else None
    if isinstance(stated, str) and stated not in {FORMAT, FORMAT_1}:
        msg = (
            f"uns[{key!r}]['model'] has the format {schema.brief(stated)}, this version reads {FORMAT!r}. "
            "Fit it again, or use the version of sc_vaenb that wrote it."
        )
        raise ValueError(msg)
    return record


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and "model" in value and "params" in value


def read_record(adata: AnnData, key: str) -> dict[str, Any]:
    """The record of a fitted model in `uns`, all but its weights checked: for what needs no model."""
    record = find(adata, key)
    with damage_told(f"the model in uns[{key!r}] is damaged", "Fit it again, or read the file again."):
        return {**record, "params": check_record(record).params}


def read_history(adata: AnnData, key: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The history and the verdict of a fit; the model itself is not looked at."""
    record = find(adata, key)
    if "history" not in record:
        msg = f"uns[{key!r}] holds no history: a model that was imported has none. Choose a model that was fitted here."
        raise KeyError(msg)
    with damage_told(f"the model in uns[{key!r}] is damaged", "Fit it again, or read the file again."):
        _check_history(record["history"], None)
        return record["history"], VERDICT(record.get("verdict"), "verdict")


@contextmanager
def damage_told(what: str, advice: str) -> Iterator[None]:
    """Say of a damaged value what it is part of, and what to do."""
    try:
        yield
    except Damaged as error:
        msg = f"{what}: {error}. {advice}"
        raise ValueError(msg) from error


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
        _check_history(record["history"], checked.n_latent)
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


def _check_history(history: Any, n_latent: int | None) -> None:
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


def expected_weights(config: ModelConfig, version: str) -> dict[str, torch.Tensor]:
    """Tensors without memory, of the shapes and types that the weights must have, by their names in that format."""
    try:
        weights = dict(empty_model(config).state_dict())
    except (RuntimeError, OverflowError, MemoryError) as error:  # sizes whose product no computer can hold
        raise Damaged(
            f"model['config'] asks for weights that cannot be ({' '.join(str(error).split())[:100]})"
        ) from error
    if version == FORMAT_1:
        return {re.sub("^batch_embedding[.]", "condition.", name): like for name, like in weights.items()}
    return weights


def _since_1(name: str) -> str:
    """What a weight is called in the model that has this name in a record of either format."""
    return re.sub("^condition[.]", "batch_embedding.", name)


def empty_model(config: ModelConfig) -> CountVAE:
    """The model before it has weights: none are drawn, so no random state is touched and no memory taken."""
    with torch.device("meta"):
        return CountVAE(config)


def _tensor(name: str, value: Any, like: torch.Tensor) -> torch.Tensor:
    """One weight, of the type and shape that the model has there."""
    where = f"model['weights'][{name!r}]"
    # files make Python's numbers of arrays without dimensions: they get their type back
    found = np.asarray(value) if isinstance(value, int | float | np.generic) else value
    kind, width = ("f", 4) if like.dtype == torch.float32 else ("i", 8)
    if not isinstance(found, np.ndarray) or found.dtype.kind != kind or (found.ndim and found.dtype.itemsize != width):
        raise schema.refuse(where, value, f"an array of {str(like.dtype).removeprefix('torch.')}")
    if like.ndim == 0 and found.shape == (1,):
        found = found.reshape(())  # as the first versions wrote numbers to files of their own
    if found.shape != tuple(like.shape):
        raise Damaged(f"{where} has the shape {found.shape}, not {tuple(like.shape)}")
    schema.check_values(found, where, -LARGEST_WEIGHT, LARGEST_WEIGHT)
    return torch.from_numpy(np.array(found, dtype=f"={kind}{width}", order="C"))


def _check_meaning(weights: Mapping[str, torch.Tensor], config: ModelConfig) -> None:
    """Refuse weights whose values cannot be, wherever they point or whatever they are divided by."""
    n = config.n_batches
    code = list(config.batch_code or range(n))
    group = list(config.batch_group or [0] * n)
    for name, value in weights.items():
        last = name.rpartition(".")[2]
        if name == "depth" or name == "penalties.protein.spread":
            good, wanted = bool((value > 0).all()), "above 0"
        elif last in {"running_var", "num_batches_tracked"}:
            good, wanted = bool((value >= 0).all()), "0 or above"
        elif name == "batch_embedding.code":
            good, wanted = value.tolist() == code, "those in model['config']"
        elif last == "group":
            good, wanted = value.tolist() == group, "those in model['config']"
        elif name == "prior.weight":
            good = bool((value >= 0).all() and abs(float(value.sum()) - 1) < 1e-2)
            wanted = "shares of 1"
        elif name == "prior.log_var" and issubclass(PRIORS[config.prior], Mixture):
            good, wanted = (
                bool((value.abs() <= LARGEST_LOG_VAR).all()),
                f"within -{LARGEST_LOG_VAR:g} to {LARGEST_LOG_VAR:g}",
            )
        else:
            continue
        if not good:
            raise Damaged(f"model['weights'][{name!r}] holds values that are not {wanted}")


# In a file of its own


def to_text(record: Mapping[str, Any]) -> dict[str, str]:
    """All of a record but its weights, as the texts of a model file."""
    model = record["model"]
    parts = {
        "genes": [str(gene) for gene in model["genes"]],
        "batches": [str(batch) for batch in model["batches"]],
        # a mask of genes is of use with its own AnnData alone
        "params": {k: _plain(v) for k, v in record["params"].items() if np.size(v) < len(model["genes"])},
        "verdict": {name: _plain(value) for name, value in record["verdict"].items()},
        "overlap": {name: _plain(value) for name, value in record.get("overlap", {}).items()},
    }
    written = {name: json.dumps(part) for name, part in parts.items()}
    return {"format": str(model["format"]), "config": str(model["config"]), **written}


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def read_file(path: Path) -> dict[str, Any]:
    """The record in a model file, all of it checked; of a file that holds no model of ours no array is read."""
    if not path.is_file():
        msg = f"{str(path)!r} is not a file. Give one that sc_vaenb.tl.export_model wrote."
        raise FileNotFoundError(msg)
    try:
        with safe_open(path, "numpy") as file, damage_told(f"{str(path)!r} is damaged", "Get it again."):
            return _read(path, file)
    except SafetensorError as error:
        msg = f"{str(path)!r} is cut off, or no safetensors file ({error}). Get it again."
        raise ValueError(msg) from error


def _read(path: Path, file: Any) -> dict[str, Any]:
    stored = dict(file.metadata() or {})
    if "format" not in stored or "sha256" not in stored:
        msg = f"{str(path)!r} holds no model of sc_vaenb. Give a file that sc_vaenb.tl.export_model wrote."
        raise ValueError(msg)
    if stored["format"] not in {FORMAT, FORMAT_1}:
        msg = (
            f"{str(path)!r} has the format {schema.brief(stored['format'])}, this version reads {FORMAT!r}. Use the "
            "version of sc_vaenb that wrote it."
        )
        raise ValueError(msg)
    stated = stored.pop("sha256")
    texts = schema.fields(
        dict.fromkeys(("format", "config", "genes", "batches", "params", "verdict", "overlap"), text())
    )
    texts(stored, "the header")
    parts = {name: schema.parse_json(value, name) for name, value in stored.items() if name != "format"}
    model = {
        "format": stored["format"],
        "config": stored["config"],
        "genes": _names(parts["genes"]),
        "batches": _names(parts["batches"]),
        "weights": {},
    }
    record = {"params": _arrays(parts["params"]), "verdict": parts["verdict"], "model": model}
    if parts["overlap"]:
        record["overlap"] = _arrays(parts["overlap"])
    checked = check_record(record)
    _check_sizes(file, expected_weights(checked.config, checked.format))
    model["weights"] = weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    if checksum(weights, stored) != stated:
        msg = (
            f"{str(path)!r} was changed since it was written: its checksum is not {schema.brief(stated)}. Get it again."
        )
        raise ValueError(msg)
    FittedModel.from_record(record)
    return record


def _check_sizes(file: Any, shapes: Mapping[str, torch.Tensor]) -> None:
    """Refuse arrays that are not those of the model, from their names, types and shapes alone."""
    there = set(file.keys())
    if different := sorted(there ^ set(shapes)):
        raise Damaged(f"it {'has' if different[0] in there else 'lacks'} the array {schema.brief(different[0])}")
    for name, like in shapes.items():
        part = file.get_slice(name)
        kind, shape = "F32" if like.dtype == torch.float32 else "I64", list(like.shape)
        found = list(part.get_shape())
        if part.get_dtype() != kind or found not in (shape, shape or [1]):
            raise Damaged(f"the array {name!r} is {part.get_dtype()} of shape {found}, not {kind} of {shape}")


def checksum(weights: Mapping[str, NDArray[Any]], texts: Mapping[str, str]) -> str:
    """Of all arrays, with their names and shapes, and all texts."""
    digest = hashlib.sha256()
    for name in sorted(texts):
        digest.update(f"{name}\n{texts[name]}\n".encode())
    for name in sorted(weights):
        digest.update(f"{name} {weights[name].dtype} {weights[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(weights[name]).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _names(value: Any) -> Any:
    """A list of names as the array that it was in `uns`."""
    return (
        np.array(value, dtype=object) if isinstance(value, list) and all(isinstance(v, str) for v in value) else value
    )


def _arrays(value: Any) -> Any:
    """Lists as the arrays that they were: of text as objects, which every file can hold."""
    if not isinstance(value, dict):
        return value
    return {name: _array(part) if isinstance(part, list) else part for name, part in value.items()}


def _array(value: list[Any]) -> Any:
    if value and isinstance(value[0], str):
        return _names(value)
    try:
        return np.array(value)
    except ValueError:  # rows of different lengths: refused by who checks them
        return value
