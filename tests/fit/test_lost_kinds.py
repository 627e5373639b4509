import numpy as np
import pytest
from scipy import sparse

import sc_vaenb
from sc_vaenb.data.counts import Counts
from sc_vaenb.fit.lost_kinds import lost_kinds
from sc_vaenb.fit.overlap import find_overlap


@pytest.fixture(scope="module")
def cells():
    """Three types in two batches, and what was found in them."""
    adata = sc_vaenb.datasets.simulate(400, 300, n_types=3, n_batches=2, mean_depth=3000, marker_fold=6, rng=2)
    matrix = sparse.csr_matrix(adata.X, dtype=np.float32)
    depth = np.asarray(matrix.sum(1)).ravel()
    counts = Counts(matrix, (depth / depth.mean()).astype(np.float32), adata.obs["batch"].cat.codes.to_numpy(np.int64))
    return adata, find_overlap(counts).kinds


def embedding_of(types, rng):
    return (10 * np.eye(3)[types] + rng.normal(size=(len(types), 3))).astype(np.float32)


def test_types_that_stay_apart_are_not_lost(cells):
    adata, kinds = cells
    embedding = embedding_of(adata.obs["cell_type"].cat.codes, np.random.default_rng(0))
    assert sorted(kinds) == [0, 1]
    assert [lost_kinds(embedding, batch, kinds[batch]) for batch in (0, 1)] == [[], []]


def test_types_that_fell_together_are_named_by_their_genes(cells):
    adata, kinds = cells
    types = adata.obs["cell_type"].cat.codes.to_numpy()
    embedding = embedding_of(np.where(types == 2, 1, types), np.random.default_rng(0))
    lost = lost_kinds(embedding, 1, kinds[1])
    assert len(lost) == 2  # each with the other
    markers = adata.var["marker_of"].to_numpy()
    found = {(markers[pair.genes[0]], markers[pair.other_genes[0]]) for pair in lost}
    assert found == {("type_1", "type_2"), ("type_2", "type_1")}
    assert all(pair.batch == 1 and 0.3 < pair.share < 0.7 for pair in lost)


def test_a_batch_with_one_kind_can_lose_nothing(cells):
    adata, kinds = cells
    one = kinds[0]._replace(fraction=np.ones(1))
    assert lost_kinds(np.zeros((adata.n_obs, 2), np.float32), 0, one) == []


def test_a_kind_that_is_half_mixed_with_a_larger_one_is_not_lost(cells):
    """Of a type that is mixed through and through nearly all neighbours are of the other; here it is a half."""
    adata, kinds = cells
    types, rng = adata.obs["cell_type"].cat.codes.to_numpy(), np.random.default_rng(1)
    stray = (types == 2) & (rng.random(len(types)) < 0.4)
    assert lost_kinds(embedding_of(np.where(stray, 1, types), rng), 1, kinds[1]) == []


def test_cells_in_no_cluster_do_not_count(cells):
    adata, kinds = cells
    cluster = kinds[1].cluster.copy()
    cluster[:5] = -1
    embedding = embedding_of(adata.obs["cell_type"].cat.codes, np.random.default_rng(0))
    assert lost_kinds(embedding, 1, kinds[1]._replace(cluster=cluster)) == []
