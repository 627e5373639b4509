from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scanpy import logging as logg
from scipy.sparse import csr_array

from .. import _adata, _obs
from .._checks import checked, seed_of
from .._session import own_state
from ..metrics import METRICS
from ..metrics import score as score_arrays
from ..metrics.scoring import MIN_CELLS, n_cells_in_graph
from ._arguments import to_uns

if TYPE_CHECKING:
    from anndata import AnnData

MAX_ENTROPY_LEFT = 0.5  # share of the labels' entropy that the labels of a fit may leave to count as the same labels


@own_state()
@checked
def score(
    adata: AnnData,
    embeddings: str | Sequence[str] | None = None,
    *,
    batch_key: str | Sequence[str] | None = None,
    label_key: str | None = None,
    reference: str | None = "X_pca",
    neighbors_key: str | Sequence[str] | None = None,
    max_cells: int = 20_000,
    rng: int | np.random.Generator | None = 0,
    key_added: str = "scores",
    copy: bool = False,
) -> AnnData | None:
    """Score embeddings: how well they keep biology, how well they mix batches, and how much over-correction destroyed.

    The total combines metrics of neighbourhoods, clusters and distances between types. Silhouettes, which can mislead
    (Rautenstrauch & Ohler 2025, Nature Biotechnology), are separate columns and not in the total. scIB's total (Luecken
    et al. 2022, Nature Methods; with BRAS instead of the batch silhouette) is written too, for comparison with papers.
    :mod:`sc_vaenb.metrics` describes each metric.

    Parameters
    ----------
    adata
        Cells, with embeddings in `obsm`.
    embeddings
        Keys of `obsm`. `None`: all that begin with `X_` and have more than two dimensions, and `pca` if `X_pca` does
        not exist.
    batch_key
        Column of `obs` with the batch of each cell, or several columns, as in :func:`sc_vaenb.tl.cvae`. `None` leaves
        out the metrics that need batches.
    label_key
        Column of `obs` with the cell types. `None` leaves out the metrics that need labels: batch mixing, and how much
        of the neighbourhoods within each batch is kept, remain. Cells without a label (NaN, or words such as "Unknown"
        and "NA", which a warning names) are left out of the scores.
    reference
        The embedding before any correction, for the metrics that compare with it. If the default does not exist,
        it is `"pca"`, as scanpy 2 names its PCA. These metrics are left out if neither exists, or with `None`.
    neighbors_key
        Neighbour graphs to score in addition to the embeddings, for methods without an embedding (BBKNN): keys of
        `uns`, as :func:`scanpy.pp.neighbors` writes them, or of `obsp`. They are scored by the metrics that need only a
        graph, on all cells; compare graphs only with graphs. Without `embeddings`, only graphs are scored.
    max_cells
        With more cells than this, scores are means over three stratified samples of this size, with their standard
        deviation.
    rng
        Seed of samples and Leiden.
    key_added
        Where in `uns` the scores go.
    copy
        Work on a copy of `adata` and return it.

    Returns
    -------
    `None`, or the copy if `copy`. `uns["scores"]` holds:

    `values`
        DataFrame of floats, embeddings x columns: the metrics; `bio`, `batch` and `total` = 0.6 bio + 0.4 batch, if
        there are labels and batches; the same from scIB's metrics (`bio_scib`, `batch_scib`, `total_scib`); `seconds`,
        the time of scoring; and with samples `<metric>_sd`.
    `metrics`
        DataFrame, a row per metric: `kind` (bio, batch, overcorrection), `higher_is_better`, `in_total`, `in_scib`.
    `params`
        The arguments, and `n_cells`, the number of cells that were scored.

    A fit that used the labels that it is scored with (`labels_key`) is scored too, with a warning.

    Raises
    ------
    KeyError
        A key does not exist.
    ValueError
        There are neither labels nor batches to score with, or an embedding is not finite. `adata` is unchanged.

    See Also
    --------
    sc_vaenb.metrics.score : The same from arrays.
    sc_vaenb.pl.scores : A table of the scores.
    sc_vaenb.tl.compare : Computes embeddings, scores them and says which is best.

    References
    ----------
    .. [1] Rautenstrauch and Ohler (2025), Shortcomings of silhouette in single-cell integration benchmarking, Nature
       Biotechnology.
    .. [2] Luecken et al. (2022), Benchmarking atlas-level data integration, Nature Methods 19:41-50.

    Examples
    --------
    >>> import sc_vaenb
    >>> adata = sc_vaenb.datasets.simulate()
    >>> sc_vaenb.pp.prepare(adata, batch_key="batch")
    >>> sc_vaenb.tl.harmony(adata, "batch")
    >>> sc_vaenb.tl.score(adata, ["X_pca", "X_pca_harmony"], batch_key="batch", label_key="cell_type")
    >>> adata.uns["scores"]["values"]["total"]
    """
    _adata.check_key_added(adata, key_added)
    rng = seed_of(rng)
    graphs = _graphs(adata, neighbors_key)
    keys = [] if embeddings is None and graphs else _keys(adata, embeddings)
    if batch_key is None and label_key is None:
        msg = "batch_key and label_key are both None: there is nothing to score by. Name a column of obs."
        raise ValueError(msg)
    record = score_embeddings(adata, keys, batch_key, label_key, reference, max_cells, rng, graphs)
    if label_key is not None:
        _obs.warn_about_no_label_words(adata, label_key, _obs.NOT_A_LABEL)
    adata = adata.copy() if copy else adata
    _adata.write_record(adata, key_added, record)
    logg.hint(f"added\n    {key_added!r}, the scores (adata.uns)")
    return adata if copy else None


def score_embeddings(
    adata: AnnData,
    keys: list[str],
    batch_key: str | Sequence[str] | None,
    label_key: str | None,
    reference: str | None,
    max_cells: int,
    rng: int,
    graphs: Mapping[str, csr_array] | None = None,
) -> dict[str, Any]:
    """Compute the scores that :func:`score` writes."""
    cells, labels, batch = check_scored(adata, batch_key, label_key)
    arrays = {key: _adata.read_embedding(adata, key)[cells] for key in keys}
    uncorrected = None
    if reference == "X_pca":
        reference = _adata.pca_key(adata)
    elif reference not in (None, *adata.obsm):
        msg = f"reference={reference!r} is not in adata.obsm, which holds {list(adata.obsm)}. Choose one of these."
        raise KeyError(msg)
    if reference is not None and reference in adata.obsm:
        uncorrected = _adata.read_embedding(adata, reference)[cells]

    if label_key is not None:
        _warn_of_seen_labels(adata, keys, label_key)
    parts = [
        f"{len(names)} {kind}{'s' if len(names) > 1 else ''}"
        for names, kind in ((keys, "embedding"), (graphs, "graph"))
        if names
    ]
    start = logg.info(f"scoring {' and '.join(parts)} of {cells.sum():,} cells")
    rows = {}
    for key, array in arrays.items():
        start_time = time.perf_counter()
        array_before = None if batch is None else uncorrected
        rows[key] = score_arrays(array, labels, batch, reference=array_before, max_cells=max_cells, rng=rng)
        rows[key]["seconds"] = time.perf_counter() - start_time
    for key, graph in (graphs or {}).items():
        start_time = time.perf_counter()
        rows[key] = score_arrays(None, labels, batch, graph=csr_array(graph[cells][:, cells]), rng=rng)
        rows[key]["seconds"] = time.perf_counter() - start_time
    values = pd.DataFrame.from_dict(rows, orient="index").astype(np.float64)
    values.index.name = "embedding"
    names = [name for name in METRICS if name in values]
    metrics = pd.DataFrame(
        {
            "kind": [METRICS[name].kind for name in names],
            "higher_is_better": [METRICS[name].higher_is_better for name in names],
            "in_total": [METRICS[name].in_total for name in names],
            "in_scib": [METRICS[name].in_scib for name in names],
        },
        index=pd.Index(names, name="metric"),
    )
    params: dict[str, Any] = {"batch_key": batch_key, "label_key": label_key, "max_cells": max_cells, "rng": rng}
    if uncorrected is not None:
        params["reference"] = reference
    params = to_uns(params | {"n_cells": int(cells.sum())})
    logg.info("    finished", time=start)
    return {"values": values, "metrics": metrics, "params": params}


def check_scored(
    adata: AnnData, batch_key: str | Sequence[str] | None, label_key: str | None
) -> tuple[NDArray[np.bool_], NDArray[np.str_] | None, NDArray[np.int64] | None]:
    """Mask of the cells to score (those with a label), and the labels and batch codes of these cells."""
    if batch_key is not None and label_key in _obs.columns_of(batch_key):
        msg = f"batch_key and label_key both name {label_key!r}. Name the column of the batches, and that of the types."
        raise ValueError(msg)
    batch = None if batch_key is None else _obs.batch_labels(adata, batch_key)[0]
    cells, labels = np.ones(adata.n_obs, dtype=bool), None
    if label_key is not None:
        all_labels = _obs.read_labels(adata, "label_key", label_key)
        cells = all_labels != None  # noqa: E711 (of each cell)
        labels = all_labels[cells].astype(str)
    batch = None if batch is None else batch[cells]
    if cells.sum() < MIN_CELLS:
        msg = f"obs[{label_key!r}] labels {cells.sum()} cells: a score needs {MIN_CELLS} at least."
        raise ValueError(msg)
    for kind, key, values in (("label", label_key, labels), ("batch", batch_key, batch)):
        if values is not None and len(np.unique(values)) < 2:
            among = " among the cells with a label" if kind == "batch" and label_key is not None else ""
            msg = (
                f"obs[{key!r}] holds a single {kind}{among}: nothing to score. Leave out {kind}_key, or choose another."
            )
            raise ValueError(msg)
    return cells, labels, batch


def labels_seen(
    adata: AnnData, record: Mapping[str, Any], label_key: str, cells: NDArray[np.intp]
) -> tuple[str, NDArray[np.bool_]] | None:
    """The `labels_key` of a fit, and a mask of the cells whose label the fit did not use.

    None if the fit used no labels, or labels that do not determine those in `label_key`.
    """
    params = record.get("params", {})
    key = params.get("labels_key")
    if not isinstance(key, str):
        return None
    if key not in adata.obs:
        return key, np.zeros(len(cells), bool)  # it is not known which labels the fit used
    column, labels = (_obs.read_labels(adata, "label_key", name)[cells] for name in (key, label_key))
    used = (column != None) & (column != str(params.get("unlabeled", "")))  # noqa: E711 (of each cell)
    table = pd.crosstab(column[used], labels[used]).to_numpy()
    return (key, ~used) if key == label_key or _rows_explain_columns(table) else None


def _rows_explain_columns(table: NDArray[np.int64]) -> bool:
    """Whether the rows explain at least half of the entropy of the columns (a copy or a refinement explains all)."""

    def entropy(counts: NDArray[np.int64]) -> float:
        shares = counts[counts > 0] / counts.sum()
        return float(-(shares * np.log(shares)).sum())

    if not table.size or (total_entropy := entropy(table.sum(0))) == 0:
        return False
    entropy_left = sum(entropy(row) * row.sum() for row in table) / table.sum()
    return entropy_left <= MAX_ENTROPY_LEFT * total_entropy


def _warn_of_seen_labels(adata: AnnData, keys: list[str], label_key: str) -> None:
    """Warn of embeddings whose fit used these labels."""
    cells = np.flatnonzero(_obs.read_labels(adata, "label_key", label_key) != None)  # noqa: E711 (of each cell)
    for key in keys:
        seen = labels_seen(adata, adata.uns.get(key.removeprefix("X_"), {}), label_key, cells)
        if seen is not None:
            logg.warning(
                f"{key} is from a fit that used these labels (labels_key={seen[0]!r}): its scores show that it learned "
                "them, right or wrong. Do not compare its scores with those of fits without these labels."
            )


def _graphs(adata: AnnData, neighbors_key: str | Sequence[str] | None) -> dict[str, csr_array]:
    """The neighbour graphs, by their keys."""
    keys = [neighbors_key] if isinstance(neighbors_key, str) else list(neighbors_key or ())
    graphs = {}
    for key in keys:
        record = adata.uns.get(key)
        obsp_key = record.get("connectivities_key", key) if isinstance(record, Mapping) else key
        if obsp_key not in adata.obsp:
            msg = (
                f"neighbors_key={key!r} is neither in uns as sc.pp.neighbors writes it nor in obsp, which holds "
                f"{list(adata.obsp)}. Run scanpy.pp.neighbors, or name a graph."
            )
            raise KeyError(msg)
        graphs[key] = csr_array(adata.obsp[obsp_key])
        n_cells_in_graph(graphs[key])
    return graphs


def _keys(adata: AnnData, embeddings: str | Sequence[str] | None) -> list[str]:
    """Keys of the embeddings to score."""
    if embeddings is None:
        named = [key for key in adata.obsm if key.startswith("X_") or key == _adata.pca_key(adata)]
        matrices = [key for key in named if np.ndim(adata.obsm[key]) == 2]
        embeddings = [key for key in matrices if adata.obsm[key].shape[1] > 2]
    keys = [embeddings] if isinstance(embeddings, str) else list(embeddings)
    if not keys:
        msg = f"there is no embedding to score: obsm holds {list(adata.obsm)}. Run sc_vaenb.tl.cvae(adata, ...) first."
        raise ValueError(msg)
    return keys
