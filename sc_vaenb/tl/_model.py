"""From the record in `uns` back to a model that computes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from .. import _adata
from ..model.vae import CountVAE, ModelConfig

if TYPE_CHECKING:
    from anndata import AnnData


class Stored(NamedTuple):
    model: CountVAE
    genes: list[str]
    batches: list[str]
    size_factor_mean: float


def load_model(adata: AnnData, key: str) -> Stored:
    """The fitted model in `uns[key]`; only strings, numbers and arrays are read, nothing is executed."""
    config, weights, genes, batches = _adata.unpack_model(_adata.find_record(adata, key), key)
    try:
        mean = float(config.pop("size_factor_mean"))
        for name in ("hidden", "decoder_hidden", "condition_code"):
            config[name] = tuple(config[name])
        with torch.device("meta"):  # no weights are drawn, so the global random state stays as it was
            model = CountVAE(ModelConfig(**config))
        model.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in weights.items()}, assign=True)
    except (KeyError, TypeError, RuntimeError) as error:
        msg = (
            f"uns[{key!r}]['model'] is damaged ({' '.join(str(error).split())}). Fit it again, or read the file again."
        )
        raise ValueError(msg) from error
    return Stored(model.eval(), genes, batches, mean)
