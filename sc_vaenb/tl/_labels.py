"""Labels of some cells, a column of `obs`: read for a fit, and predicted for all cells from their latent states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from .. import _adata
from .._names import column_names, means_no_label, names_of
from ..model.labels import UNKNOWN, Labels
from ..model.vae import CountVAE

if TYPE_CHECKING:
    from anndata import AnnData


def read_labels(
    adata: AnnData, key: str, unlabeled: str, batch_key: str | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Codes of the labels (-1 for none) and their names, two or more."""
    _adata.check_obs_key(adata, "labels_key", key)
    if key == batch_key:
        msg = f"labels_key={key!r} is the batch_key: what is to be left out would be kept. Name another column."
        raise ValueError(msg)
    column = adata.obs[key]
    _adata.warn_of_words(adata, key, _adata.NOT_A_LABEL, known=unlabeled)
    if pd.api.types.is_float_dtype(column) and (column.dropna() % 1 != 0).any():
        msg = f"obs[{key!r}] holds numbers with fractions, not labels. Name a column of categories."
        raise ValueError(msg)
    _adata.read_categories(adata, "labels_key", key)  # refuses what has no names of its own
    codes, values = pd.factorize(column, sort=False)
    texts = names_of(values)
    names = sorted(text for text in texts if text != unlabeled and not means_no_label(text))
    if len(names) < 2:
        found = f"only one label ({names[0]!r}): there is nothing to tell it from" if names else "no label"
        msg = (
            f"obs[{key!r}] holds {found} (cells without one are NaN or {unlabeled!r}). Label cells of two kinds or "
            "more, or leave labels_key out."
        )
        raise ValueError(msg)
    place = {name: code for code, name in enumerate(names)}
    code_of = np.array([place.get(text, UNKNOWN) for text in texts] + [UNKNOWN], np.int64)
    return code_of[codes], tuple(names)  # the last of code_of is for NaN, which pandas codes as -1


def classifier_of(model: CountVAE) -> Labels:
    """The classifier of a model that was fitted with labels, on the CPU."""
    head = model.penalties["labels"].cpu()
    assert isinstance(head, Labels)
    return head


def write_labels(adata: AnnData, key: str, model: CountVAE, latent: NDArray[np.float32]) -> list[str]:
    """Write the predicted labels of embedded cells, where the model has a classifier; what was written where."""
    names = list(model.config.labels)
    if not names:
        return []
    head = classifier_of(model)
    with torch.inference_mode():
        probabilities = head.probabilities(torch.from_numpy(latent)).numpy()
    label, probability, table = f"{key}_label", f"{key}_label_probability", f"{key}_label_probabilities"
    adata.obs[label] = pd.Categorical.from_codes(probabilities.argmax(1), categories=names)
    adata.obs[probability] = probabilities.max(1)
    values = pd.DataFrame(probabilities, index=adata.obs_names, columns=column_names(names))
    _adata.write_table(adata, table, values)
    return [
        f"{label!r}, the predicted labels, and {probability!r} (adata.obs)",
        f"{table!r}, the probability of each label (adata.obsm)",
    ]
