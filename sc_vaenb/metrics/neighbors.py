"""Exact nearest neighbours, which the metrics share, and the fuzzy graph built from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, diags_array

from .._checks import checked
from .._session import own_state, shared
from ._check import FloatArray, Groups, IntArray, check_embedding, check_graph

_BLOCK = 2_000_000  # floats in memory at once while distances are recomputed
_UMAP_TOLERANCE = 1e-5
_UMAP_ITERATIONS = 64
_UMAP_MIN_SCALE = 1e-3
_FAR = 50.0  # "distance" in a graph of cells that no walk reaches: a probability of 2e-22


@dataclass(frozen=True)
class Neighbors:
    """Each cell's nearest cells, the cell itself first (as in scanpy and scib-metrics).

    Attributes
    ----------
    indices
        Shape (n_cells, k): column 0 is the cell itself, then its neighbours from near to far.
    distances
        Shape (n_cells, k): Euclidean distances; column 0 is 0.
    """

    indices: IntArray
    distances: FloatArray

    def __post_init__(self) -> None:
        indices, distances = np.asarray(self.indices), np.asarray(self.distances)
        n = indices.shape[0] if indices.ndim == 2 else 0
        if not (n and indices.dtype.kind in "iu" and indices.shape == distances.shape and indices.shape[1]):
            raise ValueError(
                f"indices (shape {indices.shape}, {indices.dtype}) and distances (shape {distances.shape}) are no "
                "neighbours: pass both as cells x k, indices as whole numbers, such as of knn."
            )
        if indices.min() < 0 or indices.max() >= n or not (np.isfinite(distances).all() and distances.min() >= 0):
            raise ValueError(
                f"indices must be from 0 to {n - 1}, the number of cells less 1, and distances finite and not negative."
            )

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return int(self.indices.shape[0])

    @property
    def k(self) -> int:
        """Number of columns, for the cell itself and its `k - 1` neighbours."""
        return int(self.indices.shape[1])

    def first(self, k: int) -> Neighbors:
        """Return the nearest `k` columns (itself included); all of them if there are fewer."""
        return Neighbors(self.indices[:, :k], self.distances[:, :k])


@own_state()
@checked
def knn(embedding: ArrayLike, k: int = 90) -> Neighbors:
    """Find each cell's exact `k` nearest cells (itself included) in Euclidean distance.

    scib-metrics searches approximately (pynndescent, float32); here the search is exact (blocks of a matrix product),
    because at the sizes that are scored it takes less than a second and it makes scores independent of a seed.

    Parameters
    ----------
    embedding
        Shape (n_cells, n_dimensions).
    k
        Cells per row, the cell itself included; reduced to `n_cells` where there are fewer.

    Returns
    -------
    The neighbours, with the cell itself in column 0 even where other cells lie on the same point.

    See Also
    --------
    sc_vaenb.metrics.graph_neighbors : Neighbours in a graph.
    sc_vaenb.metrics.fuzzy_graph : A graph of the neighbours.
    """
    x = check_embedding(embedding)
    k = min(k, x.shape[0])
    from sklearn.neighbors import NearestNeighbors  # imported here, so that importing the package stays fast

    x = x - x.mean(axis=0)  # distances by a matrix product lose precision far from the origin
    with shared():  # it sets the threads of BLAS
        indices = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(x).kneighbors(x, return_distance=False)
    indices = indices.astype(np.intp)
    cell_itself = np.arange(x.shape[0])[:, None]
    lacks_itself = ~(indices == cell_itself).any(axis=1)
    # k or more other cells at the same point: the cell is not in its own list
    indices[lacks_itself, -1] = cell_itself[lacks_itself, 0]

    distances = np.empty(indices.shape)
    step = max(1, _BLOCK // (k * x.shape[1]))
    for start in range(0, x.shape[0], step):
        rows = slice(start, start + step)
        distances[rows] = np.linalg.norm(x[indices[rows]] - x[rows, None, :], axis=2)
    order = np.argsort(np.where(indices == cell_itself, -1.0, distances), axis=1, kind="stable")
    return Neighbors(np.take_along_axis(indices, order, axis=1), np.take_along_axis(distances, order, axis=1))


def capped_k(k: int, n_cells: int) -> int:
    """Return `k`, but at most a quarter of the other cells (and at least 1).

    If `k` is close to the size of the group, every neighbourhood is the whole group, and any embedding would look
    unchanged and perfectly mixed.
    """
    return min(k, max(1, (n_cells - 1) // 4))


def knn_within(embedding: FloatArray, groups: Groups, k: int) -> Iterator[tuple[int, IntArray, IntArray]]:
    """Find neighbours among the cells of the same group only.

    Parameters
    ----------
    embedding
        Checked embedding, shape (n_cells, n_dimensions).
    groups
        The groups; those with one cell are left out.
    k
        Neighbours without the cell itself, capped per group (:func:`capped_k`).

    Yields
    ------
    The group's code, its cells (n_group,), and their neighbours (n_group, k) as positions within these cells.
    """
    for code, cells in enumerate(groups.cells()):
        if len(cells) > 1:
            yield code, cells, knn(embedding[cells], capped_k(k, len(cells)) + 1).indices[:, 1:]


def sum_by_group(codes: IntArray, n_groups: int, weights: FloatArray | None = None) -> NDArray[Any]:
    """Count the neighbours of each cell in each group, or sum their weights.

    Parameters
    ----------
    codes, weights
        Group codes and weights of the neighbours of each cell, shape (n_cells, k).

    Returns
    -------
    Shape (n_cells, n_groups).
    """
    n_cells = len(codes)
    cell_and_group = (np.arange(n_cells)[:, None] * n_groups + codes).ravel()
    sums = np.bincount(cell_and_group, None if weights is None else weights.ravel(), n_cells * n_groups)
    return sums.reshape(n_cells, n_groups)


@own_state()
@checked
def fuzzy_graph(neighbors: Neighbors) -> csr_array:
    """Weigh the neighbour graph as UMAP and `scanpy.pp.neighbors` do.

    A neighbour at distance d weighs exp(-(d - rho) / sigma), with rho the distance of the nearest other point and sigma
    such that a cell's weights sum to log2(k); the two directions of an edge are united, w + w' - w w' [1]_.
    In float64 instead of umap-learn's float32 (differences about 1e-5), and without its compile time.

    Parameters
    ----------
    neighbors
        From :func:`knn`.

    Returns
    -------
    Symmetric, shape (n_cells, n_cells), without diagonal.

    See Also
    --------
    sc_vaenb.metrics.knn : The neighbours.
    scanpy.pp.neighbors : The graph of an AnnData.

    References
    ----------
    .. [1] McInnes, Healy and Melville (2018), UMAP: uniform manifold approximation and projection, arXiv:1802.03426.
    """
    d, k, n = neighbors.distances, neighbors.k, neighbors.n_cells
    positive = d > 0
    rho = np.where(positive.any(axis=1), np.take_along_axis(d, positive.argmax(axis=1)[:, None], axis=1)[:, 0], 0.0)
    beyond = np.maximum(d[:, 1:] - rho[:, None], 0.0)

    target = np.log2(k)
    low, high, sigma = np.zeros(n), np.full(n, np.inf), np.ones(n)
    open_rows = np.arange(n)
    for _ in range(_UMAP_ITERATIONS):
        error = np.exp(-beyond[open_rows] / sigma[open_rows, None]).sum(axis=1) - target
        not_converged = np.abs(error) >= _UMAP_TOLERANCE
        open_rows, error = open_rows[not_converged], error[not_converged]
        if len(open_rows) == 0:
            break
        too_wide, too_narrow = open_rows[error > 0], open_rows[error <= 0]
        high[too_wide] = sigma[too_wide]
        low[too_narrow] = sigma[too_narrow]
        bounded = np.isfinite(high[open_rows])
        sigma[open_rows[~bounded]] *= 2
        inside = open_rows[bounded]
        sigma[inside] = (low[inside] + high[inside]) / 2
    sigma = np.maximum(sigma, _UMAP_MIN_SCALE * np.where(rho > 0, d.mean(axis=1), d.mean()))

    # where sigma is 0 all cells lie on one point, so `beyond` is 0 too and every weight is 1
    weights = np.exp(-beyond / np.where(sigma > 0, sigma, 1.0)[:, None])
    indptr = np.arange(0, n * (k - 1) + 1, k - 1) if k > 1 else np.zeros(n + 1, dtype=np.intp)
    directed = csr_array((weights.ravel(), neighbors.indices[:, 1:].ravel(), indptr), shape=(n, n))
    directed.sort_indices()
    transpose = directed.T.tocsr()
    graph = (directed + transpose - directed * transpose).tocsr()
    graph.eliminate_zeros()
    graph.sort_indices()
    return graph


@own_state()
@checked
def graph_neighbors(graph: csr_array, k: int = 90) -> Neighbors:
    """List the cells that are best reached from each cell in a given neighbour graph, such as BBKNN's.

    A random walk of one and two steps over the weights gives each cell an order of the others; distances are minus the
    log of its probabilities. A third step is taken only where fewer than `k` cells were reached; where even that
    reaches too few, the cell itself fills the row.

    Parameters
    ----------
    graph
        Symmetric weights, shape (n_cells, n_cells), such as `obsp["connectivities"]`.
    k
        Cells per row, the cell itself included; reduced to `n_cells` where there are fewer.

    Returns
    -------
    The neighbours, with the cell itself in column 0.

    See Also
    --------
    sc_vaenb.metrics.knn : Neighbours in an embedding.
    """
    graph = check_graph(graph)
    n = graph.shape[0]
    k = min(k, n)
    degree = np.asarray(graph.sum(axis=1)).ravel()
    walk = csr_array(diags_array(1 / np.where(degree > 0, degree, 1)) @ graph)
    two_steps = csr_array(walk + walk @ walk)
    reaches_few = np.flatnonzero(np.diff(two_steps.indptr) < k)
    indices = np.repeat(np.arange(n)[:, None], k, axis=1)
    distances = np.full((n, k), _FAR)
    distances[:, 0] = 0.0
    three_steps = csr_array(two_steps[reaches_few] + two_steps[reaches_few] @ walk) if len(reaches_few) else None
    row_in_three_steps = np.full(n, -1)
    row_in_three_steps[reaches_few] = np.arange(len(reaches_few))
    for cell in range(n):
        rows, row = (
            (two_steps, cell)
            if row_in_three_steps[cell] < 0 or three_steps is None
            else (three_steps, row_in_three_steps[cell])
        )
        entries = slice(rows.indptr[row], rows.indptr[row + 1])
        cells, weights = rows.indices[entries], rows.data[entries]
        cells, weights = cells[cells != cell], weights[cells != cell]
        nearest = np.argsort(-weights, kind="stable")[: k - 1]
        indices[cell, 1 : len(nearest) + 1] = cells[nearest]
        distances[cell, 1 : len(nearest) + 1] = -np.log(np.minimum(weights[nearest], 1.0))
    return Neighbors(indices, distances)
