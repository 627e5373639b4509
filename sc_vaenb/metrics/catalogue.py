"""Every metric by name. To add one, write a function of a `Case` and enter it in `METRICS`; nothing else changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeVar

import numpy as np
from scipy.sparse import csr_array

from .._checks import checked
from .._session import own_state
from ._check import FloatArray, IntArray
from .clustering import RESOLUTIONS, ClusterScore, best_nmi, cluster_scores
from .connectivity import graph_connectivity
from .isolated import isolated_labels
from .kbet import kbet_per_label
from .lisi import clisi, ilisi
from .mixing import Mixing, same_batch_share
from .neighbors import Neighbors, fuzzy_graph, knn
from .overcorrection import LabelSet, label_purity, neighborhood_overlap, purity_kept
from .pcr import pcr_comparison
from .silhouette import bras, silhouette_samples

GRAPH_K = 15
"""Cells per neighbourhood (itself included) for clusters, connectivity and purity, as in scIB and scanpy."""
KBET_K = 50
"""The same for kBET, as in scIB."""
LOCAL_K = 30
"""Neighbours (without the cell itself) for searches within a batch or a label."""

T = TypeVar("T")
Kind = Literal["bio", "batch", "overcorrection"]
Need = Literal["labels", "batch", "reference"]


@dataclass
class Case:
    """One embedding with its annotation; what several metrics share is computed once, when first asked for.

    Attributes
    ----------
    embedding, reference
        Shape (n_cells, ...): after and before integration.
    labels, batch
        Integer codes, one per cell.
    k
        Size of the shared neighbour search; smaller neighbourhoods are its first columns.
    seed
        Seed for Leiden.
    """

    embedding: FloatArray
    labels: IntArray | None = None
    batch: IntArray | None = None
    reference: FloatArray | None = None
    k: int = 90
    seed: int = 0

    @cached_property
    def neighbors(self) -> Neighbors:
        """The shared neighbours in the embedding."""
        return knn(self.embedding, self.k)

    @cached_property
    def graph_neighbors(self) -> Neighbors:
        """The nearest of the shared neighbours."""
        return self.neighbors.first(GRAPH_K)

    @cached_property
    def reference_neighbors(self) -> Neighbors:
        """As many neighbours in the reference as `graph_neighbors` has."""
        return knn(_given(self.reference), self.graph_neighbors.k)

    @cached_property
    def kbet_graph(self) -> csr_array:
        """The fuzzy graph that kBET walks on."""
        return fuzzy_graph(self.neighbors.first(KBET_K))

    @cached_property
    def widths(self) -> FloatArray:
        """Silhouette width of labels for each cell."""
        return silhouette_samples(self.embedding, _given(self.labels))

    @cached_property
    def clusters(self) -> list[ClusterScore]:
        """Leiden clusters compared with labels, for each of `RESOLUTIONS`."""
        return cluster_scores(fuzzy_graph(self.graph_neighbors), _given(self.labels), seed=self.seed)

    @cached_property
    def mixing(self) -> Mixing:
        """Share of neighbours from the own batch, within labels if there are labels."""
        return same_batch_share(self.embedding, _given(self.batch), self.labels, k=LOCAL_K)


def _given(value: T | None) -> T:
    assert value is not None, "a metric asked for an input that its entry in METRICS does not name"
    return value


@dataclass(frozen=True)
class Metric:
    """How a metric is computed and read.

    Attributes
    ----------
    function
        From a `Case` to a number; NaN where it is undefined on these data.
    kind
        "bio" (is biology kept), "batch" (are batches mixed), "overcorrection" (what did mixing destroy).
    needs
        The inputs without which it is left out.
    in_total
        Whether it enters scIB's means; false for what scIB does not have.
    higher_is_better
        Direction.
    """

    function: Callable[[Case], float]
    kind: Kind
    needs: tuple[Need, ...]
    in_total: bool = True
    higher_is_better: bool = True


def _purity(which: LabelSet) -> Callable[[Case], float]:
    return lambda case: label_purity(case.graph_neighbors, _given(case.labels), case.batch, which=which)


def _kept(which: LabelSet) -> Callable[[Case], float]:
    return lambda case: purity_kept(
        case.graph_neighbors, case.reference_neighbors, _given(case.labels), case.batch, which=which
    )


_FIXED = RESOLUTIONS.index(1.0)
_L: tuple[Need, ...] = ("labels",)
_B: tuple[Need, ...] = ("batch",)
_LB: tuple[Need, ...] = ("labels", "batch")
_BR: tuple[Need, ...] = ("batch", "reference")
_LBR: tuple[Need, ...] = ("labels", "batch", "reference")

METRICS: Mapping[str, Metric] = {
    "isolated_labels": Metric(
        lambda c: isolated_labels(c.embedding, _given(c.labels), _given(c.batch), widths=c.widths), "bio", _LB
    ),
    "nmi": Metric(lambda c: best_nmi(c.clusters).nmi, "bio", _L),
    "ari": Metric(lambda c: best_nmi(c.clusters).ari, "bio", _L),
    "silhouette_label": Metric(lambda c: float((c.widths.mean() + 1) / 2), "bio", _L),
    "clisi": Metric(lambda c: clisi(c.neighbors, _given(c.labels)), "bio", _L),
    "nmi_resolution_1": Metric(lambda c: c.clusters[_FIXED].nmi, "bio", _L, in_total=False),
    "ari_resolution_1": Metric(lambda c: c.clusters[_FIXED].ari, "bio", _L, in_total=False),
    "bras": Metric(lambda c: bras(c.embedding, _given(c.labels), _given(c.batch)), "batch", _LB),
    "ilisi": Metric(lambda c: ilisi(c.neighbors, _given(c.batch)), "batch", _B),
    "kbet": Metric(lambda c: kbet_per_label(c.kbet_graph, _given(c.labels), _given(c.batch)), "batch", _LB),
    "graph_connectivity": Metric(lambda c: graph_connectivity(c.graph_neighbors, _given(c.labels)), "batch", _LB),
    "pcr_comparison": Metric(lambda c: pcr_comparison(c.embedding, _given(c.reference), _given(c.batch)), "batch", _BR),
    "same_batch_share": Metric(lambda c: c.mixing.share, "batch", _B, in_total=False, higher_is_better=False),
    "same_batch_excess": Metric(lambda c: c.mixing.excess, "batch", _B, in_total=False, higher_is_better=False),
    "neighborhood_overlap": Metric(
        lambda c: neighborhood_overlap(c.embedding, _given(c.reference), _given(c.batch), k=LOCAL_K),
        "overcorrection",
        _BR,
        in_total=False,
    ),
    "label_purity": Metric(_purity("all"), "overcorrection", _L, in_total=False),
    "confounded_purity": Metric(_purity("confounded"), "overcorrection", _LB, in_total=False),
    "confounded_kept": Metric(_kept("confounded"), "overcorrection", _LBR, in_total=False),
    "private_purity": Metric(_purity("private"), "overcorrection", _LB, in_total=False),
    "private_kept": Metric(_kept("private"), "overcorrection", _LBR, in_total=False),
}
"""Metric by name, in the order in which :func:`score` reports them."""

BIO_WEIGHT = 0.6
"""Weight of the bio mean in scIB's total; the rest is the batch mean's."""


@own_state()
@checked
def aggregate(values: Mapping[str, float]) -> dict[str, float]:
    """Summarise metric values as scIB does: total = 0.6 bio + 0.4 batch, each the mean of its metrics.

    Only metrics of `METRICS` with `in_total` enter; NaN and missing ones are left out of the mean, and so totals are
    comparable only between embeddings scored on the same cells with the same inputs.

    Parameters
    ----------
    values
        Metric values by name; names that are not in `METRICS` are ignored.

    Returns
    -------
    "bio" and "batch", each where it has a value, and "total" where both have one.

    References
    ----------
    .. [1] Luecken et al. (2022), Benchmarking atlas-level data integration, Nature Methods 19:41-50.
    """
    result: dict[str, float] = {}
    for kind in ("bio", "batch"):
        parts = [
            values[name]
            for name, metric in METRICS.items()
            if metric.kind == kind and metric.in_total and not np.isnan(values.get(name, np.nan))
        ]
        if parts:
            result[kind] = float(np.mean(parts))
    if len(result) == 2:
        result["total"] = BIO_WEIGHT * result["bio"] + (1 - BIO_WEIGHT) * result["batch"]
    return result
