"""A fitted model and its record in `uns`. This file, `_record_checks`, `_record_weights` and `_model_file` know the
format of a stored model, and check its record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import _schema as schema
from ._record_checks import VERDICT, ModelFacts, check_history, check_record
from ._record_weights import FORMAT, FORMAT_1, build_model
from ._schema import explain_damage
from .model.vae import CountVAE

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True, kw_only=True)
class FittedModel(ModelFacts):
    """A fitted model with its weights, and the facts about it."""

    model: CountVAE

    @classmethod
    def from_uns(cls, adata: AnnData, key: str) -> FittedModel:
        """The fitted model in `uns[key]`. Only strings, numbers and arrays are read; no code is executed."""
        record = find(adata, key)
        with explain_damage(f"the model in uns[{key!r}] is damaged", "Fit it again, or read the file again."):
            return cls.from_record(record)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> FittedModel:
        """The model of a record, after every check."""
        checked = check_record(record)
        model = build_model(record["model"]["weights"], checked.config, checked.format)
        return cls(model=model, **vars(checked.facts))

    def to_uns(self) -> dict[str, Any]:
        """The model as plain strings and arrays, for the record in `uns`."""
        config = asdict(self.model.config) | {
            "size_factor_mean": self.size_factor_mean,
            "covariates": self.covariates,
            "proteins": self.proteins,
            "peaks": self.peaks,
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
    """The record of a fitted model in `uns`, not yet checked. Without one, the error lists the models in `uns`."""
    record = adata.uns.get(key)
    if not _is_record(record):
        fitted = [name for name, value in adata.uns.items() if _is_record(value)]
        msg = f"uns[{key!r}] holds no model fitted by sc_vaenb; uns has {fitted}. Run sc_vaenb.tl.cvae or tl.vae first."
        raise KeyError(msg)
    model = record["model"]
    stated_format = schema.scalar(model.get("format")) if isinstance(model, Mapping) else None
    if isinstance(stated_format, str) and stated_format not in {FORMAT, FORMAT_1}:
        msg = (
            f"uns[{key!r}]['model'] has the format {schema.brief(stated_format)}, this version reads {FORMAT!r}. "
            "Fit it again, or use the version of sc_vaenb that wrote it."
        )
        raise ValueError(msg)
    return record


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and "model" in value and "params" in value


def read_record(adata: AnnData, key: str) -> dict[str, Any]:
    """The record of a fitted model in `uns`, checked except for its weights, for functions that only read it."""
    record = find(adata, key)
    with explain_damage(f"the model in uns[{key!r}] is damaged", "Fit it again, or read the file again."):
        return {**record, "params": check_record(record).facts.params}


def read_history(adata: AnnData, key: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The history and the verdict of a fit; the model itself is not checked."""
    record = find(adata, key)
    if "history" not in record:
        msg = f"uns[{key!r}] holds no history: a model that was imported has none. Choose a model that was fitted here."
        raise KeyError(msg)
    with explain_damage(f"the model in uns[{key!r}] is damaged", "Fit it again, or read the file again."):
        check_history(record["history"], None)
        return record["history"], VERDICT(record.get("verdict"), "verdict")
