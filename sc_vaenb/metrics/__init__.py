"""Integration metrics from arrays, without AnnData. :func:`score` computes all of them at once."""

from .across import cross_batch_accuracy, cross_batch_hits
from .catalogue import BIO_WEIGHTS, METRICS, READINGS, SCIB, Case, Metric, aggregate, summarize
from .clustering import RESOLUTIONS, ClusterScore, best_nmi, cluster_scores, leiden
from .connectivity import graph_connectivity
from .isolated import isolated_labels
from .kbet import kbet_label, kbet_per_label
from .lisi import cilisi, cilisi_per_cell, clisi, ilisi, lisi
from .mixing import Mixing, same_batch_share
from .neighbors import Neighbors, fuzzy_graph, graph_neighbors, knn
from .overcorrection import label_purity, neighborhood_overlap, overlap_per_batch, purity_kept, purity_per_label
from .pcr import pcr_comparison, variance_explained
from .scgraph import geometry
from .scoring import score
from .silhouette import bras, silhouette_label, silhouette_samples

__all__ = [
    "BIO_WEIGHTS",
    "METRICS",
    "READINGS",
    "RESOLUTIONS",
    "SCIB",
    "Case",
    "ClusterScore",
    "Metric",
    "Mixing",
    "Neighbors",
    "aggregate",
    "best_nmi",
    "bras",
    "cilisi",
    "cilisi_per_cell",
    "clisi",
    "cluster_scores",
    "cross_batch_accuracy",
    "cross_batch_hits",
    "fuzzy_graph",
    "geometry",
    "graph_connectivity",
    "graph_neighbors",
    "ilisi",
    "isolated_labels",
    "kbet_label",
    "kbet_per_label",
    "knn",
    "label_purity",
    "leiden",
    "lisi",
    "neighborhood_overlap",
    "overlap_per_batch",
    "pcr_comparison",
    "purity_kept",
    "purity_per_label",
    "same_batch_share",
    "score",
    "silhouette_label",
    "silhouette_samples",
    "summarize",
    "variance_explained",
]
