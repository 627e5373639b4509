"""Graph connectivity: are the cells of a label connected in the neighbour graph?"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from .._checks import checked
from .._session import own_state
from ._check import check_groups
from .neighbors import Neighbors


@own_state()
@checked
def graph_connectivity(neighbors: Neighbors, labels: ArrayLike) -> float:
    """Mean over labels of the share of its cells in the largest component of the label's own neighbour graph.

    1: each label is one piece; towards 0: labels fall apart, for instance into batches [1]_. As in scib-metrics 0.5.10
    the graph is directed and components are strong (a cell must be reached and reach back), so that a cell that is
    nobody's neighbour is a piece of its own; scIB used the symmetric graph and gives slightly higher values.

    Parameters
    ----------
    neighbors
        From :func:`knn`; scIB uses k = 15.
    labels
        One label per cell.

    Returns
    -------
    Between 0 and 1, higher is better.

    See Also
    --------
    sc_vaenb.metrics.fuzzy_graph : The graph.

    References
    ----------
    .. [1] Luecken et al. (2022), Benchmarking atlas-level data integration, Nature Methods 19:41-50.
    """
    groups = check_groups(labels, neighbors.n_cells, "labels")
    shares = []
    position = np.empty(neighbors.n_cells, dtype=np.intp)
    for label, cells in enumerate(groups.cells()):
        position[cells] = np.arange(len(cells))
        targets = neighbors.indices[cells]
        row, column = np.nonzero(groups.codes[targets] == label)
        edges = (np.ones(len(row)), (row, position[targets[row, column]]))
        _, part = connected_components(csr_array(edges, shape=(len(cells),) * 2), directed=True, connection="strong")
        shares.append(np.bincount(part).max() / len(cells))
    return float(np.mean(shares))
