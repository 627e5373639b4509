"""All metrics by name.

To add one, write a function of a `Case` and enter it in `METRICS`. Tests then ask for its meaning in words, in
`report/_meaning.py` and docs/metrics.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np
from scipy.sparse import csr_array

from .._checks import checked
from .._session import own_state
from ._check import FloatArray, IntArray
from .across import cross_batch_accuracy
from .clustering import RESOLUTIONS, ClusterScore, best_nmi, cluster_scores
from .connectivity import graph_connectivity
from .isolated import isolated_labels
from .kbet import kbet_per_label
from .lisi import cilisi, clisi, ilisi
from .mixing import Mixing, same_batch_share
from .neighbors import Neighbors, fuzzy_graph, graph_neighbors, knn
from .overcorrection import LabelSet, label_purity, neighborhood_overlap, purity_kept
from .pcr import pcr_comparison
from .scgraph import geometry
from .silhouette import bras, silhouette_samples

GRAPH_K = 15
"""Cells per neighbourhood (itself included) for clusters, connectivity and purity, as in scIB and scanpy."""
KBET_K = 50
"""The same for kBET, as in scIB."""
LOCAL_K = 30
"""Neighbours (without the cell itself) for searches within a batch or a label."""

T = TypeVar("T")
Kind = Literal["bio", "batch", "overcorrection"]
Need = Literal["labels", "batch", "reference", "embedding"]


@dataclass
class Case:
    """One embedding, or one neighbour graph, with its annotation. Results that several metrics share are computed once.

    Attributes
    ----------
    embedding
        Shape (n_cells, ...), after integration; empty where there is a graph.
    labels
        Integer codes, one per cell.
    batch
        Integer codes, one per cell.
    reference
        Shape (n_cells, ...), before integration.
    k
        Size of the shared neighbour search; smaller neighbourhoods are its first columns.
    seed
        Seed for Leiden.
    graph
        Symmetric weights, shape (n_cells, n_cells), where a neighbour graph is scored and not an embedding.
    """

    embedding: FloatArray
    labels: IntArray | None = None
    batch: IntArray | None = None
    reference: FloatArray | None = None
    k: int = 90
    seed: int = 0
    graph: csr_array | None = None

    @cached_property
    def neighbors(self) -> Neighbors:
        """The shared neighbours in the embedding, or in the graph."""
        return knn(self.embedding, self.k) if self.graph is None else graph_neighbors(self.graph, self.k)

    @property
    def searched(self) -> FloatArray | Neighbors:
        """The embedding, or the graph, in which metrics search for neighbours of a label or of other batches."""
        return self.embedding if self.graph is None else self.neighbors

    @cached_property
    def graph_neighbors(self) -> Neighbors:
        """The nearest of the shared neighbours."""
        return self.neighbors.first(GRAPH_K)

    @cached_property
    def reference_neighbors(self) -> Neighbors:
        """As many neighbours in the reference as `graph_neighbors` has."""
        return knn(_required(self.reference), self.graph_neighbors.k)

    @cached_property
    def kbet_graph(self) -> csr_array:
        """The fuzzy graph that kBET walks on."""
        return fuzzy_graph(self.neighbors.first(KBET_K)) if self.graph is None else self.graph

    @cached_property
    def widths(self) -> FloatArray:
        """Silhouette width of labels for each cell."""
        return silhouette_samples(self.embedding, _required(self.labels))

    @cached_property
    def clusters(self) -> list[ClusterScore]:
        """Leiden clusters compared with labels, for each of `RESOLUTIONS`."""
        graph = fuzzy_graph(self.graph_neighbors) if self.graph is None else self.graph
        return cluster_scores(graph, _required(self.labels), seed=self.seed)

    @cached_property
    def mixing(self) -> Mixing:
        """Share of neighbours from the own batch, within labels if there are labels."""
        return same_batch_share(self.embedding, _required(self.batch), self.labels, k=LOCAL_K)


def _required(value: T | None) -> T:
    assert value is not None, "a metric needs an input that its entry in METRICS does not name"
    return value


@dataclass(frozen=True)
class Metric:
    """How a metric is computed and read.

    Attributes
    ----------
    function
        From a `Case` to a number; NaN where it is undefined on these data.
    kind
        "bio" (is biology kept), "batch" (are batches mixed), "overcorrection" (what did the mixing destroy).
    needs
        The inputs that it needs; without one of them it is left out.
    in_total
        Whether it enters the means `bio` and `batch` and so the `total`.
    in_scib
        Whether it enters scIB's means `bio_scib` and `batch_scib`, with which papers are compared.
    higher_is_better
        Whether a higher value is better.
    """

    function: Callable[[Case], float]
    kind: Kind
    needs: tuple[Need, ...]
    in_total: bool = False
    in_scib: bool = False
    higher_is_better: bool = True


def _purity(which: LabelSet) -> Callable[[Case], float]:
    return lambda case: label_purity(case.graph_neighbors, _required(case.labels), case.batch, which=which)


def _kept(which: LabelSet) -> Callable[[Case], float]:
    return lambda case: purity_kept(
        case.graph_neighbors, case.reference_neighbors, _required(case.labels), case.batch, which=which
    )


_RESOLUTION_1 = RESOLUTIONS.index(1.0)
_L: tuple[Need, ...] = ("labels",)
_B: tuple[Need, ...] = ("batch",)
_LB: tuple[Need, ...] = ("labels", "batch")
_LBR: tuple[Need, ...] = ("labels", "batch", "reference", "embedding")
_LE: tuple[Need, ...] = ("labels", "embedding")
_BE: tuple[Need, ...] = ("batch", "embedding")
_LBE: tuple[Need, ...] = ("labels", "batch", "embedding")
_BR: tuple[Need, ...] = ("batch", "reference", "embedding")

METRICS: Mapping[str, Metric] = {
    "nmi": Metric(lambda c: best_nmi(c.clusters).nmi, "bio", _L, in_total=True, in_scib=True),
    "ari": Metric(lambda c: best_nmi(c.clusters).ari, "bio", _L, in_total=True, in_scib=True),
    "clisi": Metric(lambda c: clisi(c.neighbors, _required(c.labels)), "bio", _L, in_total=True, in_scib=True),
    "cross_batch_accuracy": Metric(
        lambda c: cross_batch_accuracy(c.searched, _required(c.labels), _required(c.batch)), "bio", _LB, in_total=True
    ),
    "geometry": Metric(
        lambda c: geometry(c.embedding, _required(c.reference), _required(c.labels), _required(c.batch)),
        "bio",
        _LBR,
        in_total=True,
    ),
    "isolated_labels": Metric(
        lambda c: isolated_labels(c.embedding, _required(c.labels), _required(c.batch), widths=c.widths),
        "bio",
        _LBE,
        in_scib=True,
    ),
    "silhouette_label": Metric(lambda c: float((c.widths.mean() + 1) / 2), "bio", _LE, in_scib=True),
    "nmi_resolution_1": Metric(lambda c: c.clusters[_RESOLUTION_1].nmi, "bio", _L),
    "ari_resolution_1": Metric(lambda c: c.clusters[_RESOLUTION_1].ari, "bio", _L),
    "cilisi": Metric(
        lambda c: cilisi(c.searched, _required(c.labels), _required(c.batch), k=c.k), "batch", _LB, in_total=True
    ),
    "kbet": Metric(
        lambda c: kbet_per_label(c.kbet_graph, _required(c.labels), _required(c.batch)),
        "batch",
        _LB,
        in_total=True,
        in_scib=True,
    ),
    "graph_connectivity": Metric(
        lambda c: graph_connectivity(c.graph_neighbors, _required(c.labels)), "batch", _LB, in_total=True, in_scib=True
    ),
    "ilisi": Metric(lambda c: ilisi(c.neighbors, _required(c.batch)), "batch", _B, in_scib=True),
    "bras": Metric(lambda c: bras(c.embedding, _required(c.labels), _required(c.batch)), "batch", _LBE, in_scib=True),
    "pcr_comparison": Metric(
        lambda c: pcr_comparison(c.embedding, _required(c.reference), _required(c.batch)), "batch", _BR, in_scib=True
    ),
    "same_batch_share": Metric(lambda c: c.mixing.share, "batch", _BE, higher_is_better=False),
    "same_batch_excess": Metric(lambda c: c.mixing.excess, "batch", _BE, higher_is_better=False),
    "neighborhood_overlap": Metric(
        lambda c: neighborhood_overlap(c.embedding, _required(c.reference), _required(c.batch), k=LOCAL_K),
        "overcorrection",
        _BR,
    ),
    "label_purity": Metric(_purity("all"), "overcorrection", _L),
    "confounded_purity": Metric(_purity("confounded"), "overcorrection", _LB),
    "confounded_kept": Metric(_kept("confounded"), "overcorrection", _LBR),
    "private_purity": Metric(_purity("private"), "overcorrection", _LB),
    "private_kept": Metric(_kept("private"), "overcorrection", _LBR),
}
"""Metric by name, in the order in which :func:`score` reports them."""

BIO_WEIGHT = 0.6
"""Weight of the bio mean in the total; the batch mean has the rest."""

_TOTAL = tuple(name for name, metric in METRICS.items() if metric.in_total)
SCIB = tuple(name for name, metric in METRICS.items() if metric.in_scib)
"""The metrics of scIB's total (with BRAS in the place of the batch silhouette)."""
_SILHOUETTES = ("isolated_labels", "silhouette_label", "bras")
READINGS: Mapping[str, tuple[str, ...]] = {
    "default": _TOTAL,
    "with silhouettes": _TOTAL + _SILHOUETTES,
    "without geometry": tuple(name for name in _TOTAL if name != "geometry"),
    "scIB": tuple(name for name in SCIB if name != "pcr_comparison"),
}
"""Sets of metrics for ranking methods, to see whether the winner depends on the set. No set holds principal component
regression: the embedding before correction is compared with itself there and gets 0."""
BIO_WEIGHTS = (0.5, 0.6, 0.7)
"""Weights of the bio mean that are tried with each of these sets."""


def check_names(metrics: Sequence[str]) -> None:
    """Refuse unknown names of metrics."""
    for name in [metrics] if isinstance(metrics, str) else metrics:
        if name not in METRICS:
            raise ValueError(f"metrics names {name!r}, which does not exist: choose from {', '.join(METRICS)}.")


@own_state()
@checked
def aggregate(
    values: Mapping[str, float], metrics: Sequence[str] = _TOTAL, *, bio_weight: float = BIO_WEIGHT
) -> dict[str, float]:
    """Summarise metric values: total = 0.6 bio + 0.4 batch, each the mean of its metrics.

    The weights are those of scIB [1]_. The default metrics are those with `in_total`. NaN and missing ones are left out
    of the mean, and so totals are comparable only between embeddings scored on the same cells with the same inputs.

    Parameters
    ----------
    values
        Metric values by name; names that are not in `metrics` are ignored.
    metrics
        Names of the metrics that enter, such as `SCIB` or an entry of `READINGS`.
    bio_weight
        Weight of bio in the total.

    Returns
    -------
    "bio" and "batch", each where it has a value, and "total" where both have one.

    See Also
    --------
    sc_vaenb.metrics.summarize : Both totals at once.

    References
    ----------
    .. [1] Luecken et al. (2022), Benchmarking atlas-level data integration, Nature Methods 19:41-50.
    """
    check_names(metrics)
    result: dict[str, float] = {}
    for kind in ("bio", "batch"):
        finite_values = [
            values[name] for name in metrics if METRICS[name].kind == kind and not np.isnan(values.get(name, np.nan))
        ]
        if finite_values:
            result[kind] = float(np.mean(finite_values))
    if len(result) == 2:
        result["total"] = bio_weight * result["bio"] + (1 - bio_weight) * result["batch"]
    return result


@own_state()
@checked
def summarize(values: Mapping[str, float]) -> dict[str, float]:
    """Return `bio`, `batch` and `total`, then the same of scIB's metrics as `bio_scib`, `batch_scib`, `total_scib`.

    Parameters
    ----------
    values
        Metric values by name.

    Returns
    -------
    The means by name, each where it has a value.

    See Also
    --------
    sc_vaenb.metrics.aggregate : One total.
    """
    return aggregate(values) | {f"{name}_scib": value for name, value in aggregate(values, SCIB).items()}
