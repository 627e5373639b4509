"""Labels of cells: the known labels, read from `obs` for a fit, and the predicted labels of all cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from .. import _adata, _obs
from .._names import column_names, means_no_label, names_of
from ..fit.device import tensor_of
from ..model.labels import UNKNOWN, Labels
from ..model.vae import CountVAE

if TYPE_CHECKING:
    from anndata import AnnData


def read_labels(
    adata: AnnData, key: str, unlabeled: str, batch_key: str | Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Label code of each cell (-1 for none), and the names of the labels, two or more."""
    _obs.check_obs_key(adata, "labels_key", key)
    if batch_key is not None and key in _obs.columns_of(batch_key):
        msg = f"labels_key={key!r} is a batch_key: the embedding would keep the batches. Name another column."
        raise ValueError(msg)
    column = adata.obs[key]
    _obs.warn_about_no_label_words(adata, key, _obs.NOT_A_LABEL, known=unlabeled)
    if pd.api.types.is_float_dtype(column) and (column.dropna() % 1 != 0).any():
        msg = f"obs[{key!r}] holds numbers with fractions, not labels. Name a column of categories."
        raise ValueError(msg)
    _obs.read_categories(adata, "labels_key", key)  # raises if values have no unique names
    codes, values = pd.factorize(column, sort=False)
    texts = names_of(values)
    names = sorted(text for text in texts if text != unlabeled and not means_no_label(text))
    if len(names) < 2:
        content = f"only one label ({names[0]!r}): there is nothing to tell it from" if names else "no label"
        msg = (
            f"obs[{key!r}] holds {content} (cells without one are NaN or {unlabeled!r}). Label cells of two kinds or "
            "more, or leave labels_key out."
        )
        raise ValueError(msg)
    code_of_name = {name: code for code, name in enumerate(names)}
    # pandas codes NaN as -1: the last entry is for NaN
    label_codes = np.array([code_of_name.get(text, UNKNOWN) for text in texts] + [UNKNOWN], np.int64)
    return label_codes[codes], tuple(names)


def classifier_of(model: CountVAE) -> Labels:
    """The classifier of a model that was fitted with labels, on the CPU."""
    classifier = model.penalties["labels"].cpu()
    assert isinstance(classifier, Labels)
    return classifier


def write_labels(adata: AnnData, key: str, model: CountVAE, embedding: NDArray[np.float32]) -> list[str]:
    """Write the predicted labels of embedded cells if the model has a classifier; return lines for the log on these."""
    names = list(model.config.labels)
    if not names:
        return []
    classifier = classifier_of(model)
    with torch.inference_mode():
        probabilities = classifier.probabilities(tensor_of(embedding)).numpy()
    label_key, probability_key, table_key = f"{key}_label", f"{key}_label_probability", f"{key}_label_probabilities"
    adata.obs[label_key] = pd.Categorical.from_codes(probabilities.argmax(1), categories=names)
    adata.obs[probability_key] = probabilities.max(1)
    table = pd.DataFrame(probabilities, index=adata.obs_names, columns=column_names(names))
    _adata.write_table(adata, table_key, table)
    return [
        f"{label_key!r}, the predicted labels, and {probability_key!r} (adata.obs)",
        f"{table_key!r}, the probability of each label (adata.obsm)",
    ]
