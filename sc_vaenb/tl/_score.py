from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scanpy import logging as logg

from .. import _adata
from .._checks import checked, seed_of
from .._session import own_state
from ..metrics import METRICS
from ..metrics import score as score_arrays

if TYPE_CHECKING:
    from anndata import AnnData

FEWEST = 10  # cells that a score needs


@own_state()
@checked
def score(
    adata: AnnData,
    embeddings: str | Sequence[str] | None = None,
    *,
    batch_key: str | None = None,
    label_key: str | None = None,
    reference: str | None = "X_pca",
    max_cells: int = 20_000,
    rng: int | np.random.Generator | None = 0,
    key_added: str = "scores",
    copy: bool = False,
) -> AnnData | None:
    """Score embeddings by how well they keep biology, mix batches, and what the mixing destroyed.

    The metrics are those of scIB (Luecken et al. 2022, Nature Methods) with BRAS in the place of the batch silhouette
    (Rautenstrauch & Ohler 2025), and some for over-correction; :mod:`sc_vaenb.metrics` describes each.

    Parameters
    ----------
    adata
        Cells, with embeddings in `obsm`.
    embeddings
        Keys of `obsm`. `None`: all that begin with `X_` and have more than two dimensions.
    batch_key
        Column of `obs` with the batch of each cell. `None` leaves out what needs batches.
    label_key
        Column of `obs` with the cell types. `None` leaves out what needs labels: then batch mixing and how much of
        each batch's own neighbourhoods is kept remain. Cells without a label (NaN, or
        words such as "Unknown" and "NA", which a warning names) are left out of the scores.
    reference
        The embedding before any correction, for what compares with before. It is not needed if it is not there.
    max_cells
        Above so many cells, scores are means over three stratified draws of this size, with their spread.
    rng
        Seed of draws and Leiden.
    key_added
        Where in `uns` the scores go.
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. `uns["scores"]` holds:

    `values`
        DataFrame of floats, embeddings x metrics: the metrics, then `bio`, `batch` and `total` = 0.6 bio + 0.4 batch
        where there are labels and batches, `seconds` to score it, and with draws `<metric>_sd`.
    `metrics`
        DataFrame, a row per metric: `kind` (bio, batch, overcorrection), `higher_is_better`, `in_total`.
    `params`
        The arguments, and `n_cells`, how many cells were scored.

    Raises
    ------
    KeyError
        A key is not there.
    ValueError
        There is nothing to score by, or an embedding is not finite. `adata` is unchanged.

    Examples
    --------
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata, batch_key="batch")
    >>> sc_vaenb.tl.harmony(adata, "batch")
    >>> sc_vaenb.tl.score(adata, ["X_pca", "X_pca_harmony"], batch_key="batch", label_key="cell_type")
    >>> adata.uns["scores"]["values"]["total"]
    """
    rng = seed_of(rng)
    keys = _keys(adata, embeddings)
    if batch_key is None and label_key is None:
        msg = "batch_key and label_key are both None: there is nothing to score by. Name a column of obs."
        raise ValueError(msg)
    record = score_embeddings(adata, keys, batch_key, label_key, reference, max_cells, rng)
    if label_key is not None:
        _adata.warn_of_words(adata, label_key, _adata.NOT_A_LABEL)
    adata = adata.copy() if copy else adata
    _adata.write_record(adata, key_added, record)
    logg.hint(f"added\n    {key_added!r}, the scores (adata.uns)")
    return adata if copy else None


def score_embeddings(
    adata: AnnData,
    keys: list[str],
    batch_key: str | None,
    label_key: str | None,
    reference: str | None,
    max_cells: int,
    rng: int,
) -> dict[str, Any]:
    """What :func:`score` writes."""
    cells, labels, batch = check_scored(adata, batch_key, label_key)
    arrays = {key: _adata.read_embedding(adata, key)[cells] for key in keys}
    before = None
    if reference not in (None, "X_pca", *adata.obsm):
        msg = f"reference={reference!r} is not in adata.obsm, which holds {list(adata.obsm)}. Choose one of these."
        raise KeyError(msg)
    if reference is not None and reference in adata.obsm:
        before = _adata.read_embedding(adata, reference)[cells]

    start = logg.info(f"scoring {len(keys)} embeddings of {cells.sum():,} cells")
    rows = {}
    for key, array in arrays.items():
        began = time.perf_counter()
        compared = None if batch is None else before
        rows[key] = score_arrays(array, labels, batch, reference=compared, max_cells=max_cells, rng=rng)
        rows[key]["seconds"] = time.perf_counter() - began
    values = pd.DataFrame.from_dict(rows, orient="index").astype(np.float64)
    values.index.name = "embedding"
    names = [name for name in METRICS if name in values]
    about = pd.DataFrame(
        {
            "kind": [METRICS[name].kind for name in names],
            "higher_is_better": [METRICS[name].higher_is_better for name in names],
            "in_total": [METRICS[name].in_total for name in names],
        },
        index=pd.Index(names, name="metric"),
    )
    params: dict[str, Any] = {"batch_key": batch_key, "label_key": label_key, "max_cells": max_cells, "rng": rng}
    if before is not None:
        params["reference"] = reference
    params = {name: value for name, value in params.items() if value is not None} | {"n_cells": int(cells.sum())}
    logg.info("    finished", time=start)
    return {"values": values, "metrics": about, "params": params}


def check_scored(
    adata: AnnData, batch_key: str | None, label_key: str | None
) -> tuple[NDArray[np.bool_], NDArray[np.str_] | None, NDArray[np.int64] | None]:
    """Which cells can be scored (those with a label), and the labels and batch codes of these."""
    if batch_key is not None and batch_key == label_key:
        msg = f"batch_key and label_key are both {batch_key!r}. Name the column of the batches, and that of the types."
        raise ValueError(msg)
    batch = None if batch_key is None else _adata.batch_labels(adata, batch_key)[0]
    cells, labels = np.ones(adata.n_obs, dtype=bool), None
    if label_key is not None:
        known = _adata.read_labels(adata, "label_key", label_key)
        cells = known != None  # noqa: E711 (of each cell)
        labels = known[cells].astype(str)
    batch = None if batch is None else batch[cells]
    if cells.sum() < FEWEST:
        msg = f"obs[{label_key!r}] labels {cells.sum()} cells: a score needs {FEWEST} at least."
        raise ValueError(msg)
    for what, key, values in (("label", label_key, labels), ("batch", batch_key, batch)):
        if values is not None and len(np.unique(values)) < 2:
            among = " among the cells with a label" if what == "batch" and label_key is not None else ""
            msg = (
                f"obs[{key!r}] holds a single {what}{among}: nothing to score. Leave out {what}_key, or choose another."
            )
            raise ValueError(msg)
    return cells, labels, batch


def _keys(adata: AnnData, embeddings: str | Sequence[str] | None) -> list[str]:
    if embeddings is None:
        found = [key for key in adata.obsm if key.startswith("X_") and np.ndim(adata.obsm[key]) == 2]
        embeddings = [key for key in found if adata.obsm[key].shape[1] > 2]
    keys = [embeddings] if isinstance(embeddings, str) else list(embeddings)
    if not keys:
        msg = f"there is no embedding to score: obsm holds {list(adata.obsm)}. Run sc_vaenb.tl.cvae(adata, ...) first."
        raise ValueError(msg)
    return keys
