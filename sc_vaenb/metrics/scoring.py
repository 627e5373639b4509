"""All metrics of one embedding in one call."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array

from .._checks import checked
from .._session import own_state
from ._check import FloatArray, IntArray, check_embedding, check_groups, defined_mean
from .catalogue import METRICS, Case, Metric, check_names, summarize
from .pcr import check_reference
from .subsample import stratified_draw

MIN_CELLS = 10  # that a score needs


def _select_metrics(metrics: Sequence[str] | None, available: set[str]) -> dict[str, Metric]:
    if metrics is None:
        return {name: metric for name, metric in METRICS.items() if available.issuperset(metric.needs)}
    check_names(metrics)
    for name in metrics:
        missing = [need for need in METRICS[name].needs if need not in available]
        if missing:
            raise ValueError(f"metric {name!r} needs {' and '.join(missing)}: pass {'them' if missing[1:] else 'it'}.")
    return {name: METRICS[name] for name in metrics}


def _values(chosen: dict[str, Metric], case: Case) -> dict[str, float]:
    values = {name: float(metric.function(case)) for name, metric in chosen.items()}
    return values | summarize(values)


@own_state()
@checked
def score(
    embedding: ArrayLike | None,
    labels: ArrayLike | None = None,
    batch: ArrayLike | None = None,
    *,
    reference: ArrayLike | None = None,
    metrics: Sequence[str] | None = None,
    k: int = 90,
    max_cells: int | None = 20_000,
    n_draws: int = 3,
    rng: int | np.random.Generator | None = 0,
    graph: csr_array | None = None,
) -> dict[str, float]:
    """Score an embedding: is biology kept, are batches mixed, and what did the mixing destroy?

    Parameters
    ----------
    embedding
        Shape (n_cells, n_dimensions); None where a graph is scored.
    labels
        One label (such as the cell type) per cell; without labels the metrics that need them are left out.
    batch
        One batch per cell; without batches the metrics that need them are left out.
    reference
        An unintegrated embedding of the same cells, such as the PCA of the log-normalised counts; without it principal
        component regression and the comparisons with before are left out.
    metrics
        Names from `METRICS`; default: all for which the inputs are given.
    k
        Size of the neighbourhood (the cell itself included) that LISI looks at. Clusters, connectivity and purity use
        its nearest 15, kBET its nearest 50. Reduced where there are fewer cells.
    max_cells
        Above this number of cells, scores are means over `n_draws` stratified draws (by batch and label) of this size.
        Neighbourhoods of a draw are wider than those of all cells, so compare only scores of the same `max_cells`.
        None: always use all cells, which costs time in n².
    n_draws
        Number of draws.
    rng
        Seed or generator for draws and Leiden. Global random states are not touched.
    graph
        Symmetric weights of a neighbour graph, shape (n_cells, n_cells), to be scored in the place of an embedding;
        what needs more than a graph is left out. LISI, purity and the vote across batches look at the cells that are
        best reached in it (:func:`graph_neighbors`), so compare graphs with graphs. Cells are not drawn.

    Returns
    -------
    Metric values by name (NaN where undefined on these data, such as a purity of private labels where there are none),
    then the means "bio", "batch" and "total" (see :func:`aggregate`) and those of scIB, "bio_scib", "batch_scib" and
    "total_scib", where they exist. If cells were drawn, also
    "<name>_sd" for each: the standard deviation over draws (NaN for a single draw).

    Raises
    ------
    ValueError
        If there is nothing to score by, lengths differ, values are missing or not finite, or there is a single label
        or batch.

    See Also
    --------
    sc_vaenb.tl.score : The same for embeddings in an AnnData.
    sc_vaenb.metrics.aggregate : The means of the metrics.

    References
    ----------
    .. [1] Luecken et al. (2022), Benchmarking atlas-level data integration, Nature Methods 19:41-50.
    """
    if (embedding is None) == (graph is None):
        raise ValueError("embedding and graph are both given, or neither: pass the one that is to be scored.")
    if graph is not None:
        x = np.empty((n_cells_in_graph(graph), 0))
        max_cells = None
    else:
        assert embedding is not None  # one of them is given
        x = check_embedding(embedding, min_cells=MIN_CELLS)
    if labels is None and batch is None:
        raise ValueError("labels and batch are both None: pass at least one of them, there is nothing to score by.")
    label_codes = None if labels is None else check_groups(labels, len(x), "labels", min_groups=2).codes
    batch_codes = None if batch is None else check_groups(batch, len(x), "batch", min_groups=2).codes
    before = None if reference is None else check_reference(reference, x)
    inputs = {"labels": labels, "batch": batch, "reference": reference, "embedding": embedding}
    chosen = _select_metrics(metrics, {name for name, value in inputs.items() if value is not None})
    generator = np.random.default_rng(rng)

    def values_of(cells: IntArray | slice) -> dict[str, float]:
        case = Case(
            x[cells],
            None if label_codes is None else label_codes[cells],
            None if batch_codes is None else batch_codes[cells],
            None if before is None else before[cells],
            k=k,
            seed=int(generator.integers(2**31)),
            graph=None if graph is None else csr_array(graph),
        )
        return _values(chosen, case)

    if max_cells is None or len(x) <= max_cells:
        return values_of(slice(None))
    strata = np.zeros(len(x), dtype=np.intp)
    for codes in (label_codes, batch_codes):
        if codes is not None:
            strata = strata * (int(codes.max()) + 1) + codes
    draws = [values_of(stratified_draw(strata, max_cells, generator)) for _ in range(n_draws)]
    table = {name: np.array([draw.get(name, np.nan) for draw in draws]) for name in draws[0]}
    means = {name: defined_mean(column) for name, column in table.items()}
    return means | {f"{name}_sd": _sd(column) for name, column in table.items()}


def n_cells_in_graph(graph: csr_array) -> int:
    """Return the number of cells of a neighbour graph, or raise ValueError."""
    if not hasattr(graph, "tocsr") or len(set(graph.shape)) != 1 or graph.shape[0] < MIN_CELLS:
        raise ValueError(f"graph is not a sparse matrix of cells x cells with at least {MIN_CELLS} cells.")
    if not np.isfinite(graph.data).all() or (graph.data < 0).any():
        raise ValueError("graph holds negative or non-finite weights: pass connectivities, not distances.")
    return int(graph.shape[0])


def _sd(column: FloatArray) -> float:
    finite = column[~np.isnan(column)]
    return float(finite.std(ddof=1)) if len(finite) > 1 else float("nan")
