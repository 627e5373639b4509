"""The neighbours of split counts: an embedding that shows the types explains more than one that does not."""

import numpy as np
import pytest
import torch
from scipy import sparse

from sc_vaenb.data.counts import Counts
from sc_vaenb.datasets import simulate
from sc_vaenb.fit.neighborhoods import MAX_CELLS, Neighborhoods, _products, draw_cells

CPU = torch.device("cpu")


class Fixed:
    """A model whose embedding is given."""

    training = True

    def __init__(self, latent):
        self.latent = torch.as_tensor(latent, dtype=torch.float32)

    def eval(self):
        self.training = False

    def train(self, mode):
        self.training = mode

    def encode(self, batch):
        assert not self.training
        return self.latent, self.latent


def counts_of(n_cells=240, n_batches=2, **design):
    adata = simulate(n_cells, 100, n_batches=n_batches, n_types=3, rng=1, **design)
    matrix = sparse.csr_matrix(adata.X, dtype=np.float32)
    codes = adata.obs["batch"].cat.codes.to_numpy().astype(np.int64)
    types = adata.obs["cell_type"].cat.codes.to_numpy()
    return Counts(matrix, np.ones(n_cells, np.float32), codes), types


def test_an_embedding_of_the_types_explains_what_pca_does_and_noise_nothing():
    counts, types = counts_of()
    neighborhoods = Neighborhoods(counts, np.arange(len(counts)), CPU)
    rng = np.random.default_rng(0)
    by_type = Fixed(np.eye(3)[types] + rng.normal(0, 0.05, (len(types), 3)))
    noise = Fixed(rng.normal(size=(len(types), 3)))
    assert neighborhoods.explained(by_type) > 0.8
    assert abs(neighborhoods.explained(noise)) < 0.15
    assert by_type.training  # as before
    assert np.isnan(neighborhoods.explained(Fixed(np.full((len(types), 3), np.nan))))


def test_depth_explains_nothing():
    counts, _ = counts_of(n_batches=1, depth_spread=0.8)
    depth = np.asarray(counts.matrix.sum(1))
    assert abs(Neighborhoods(counts, np.arange(len(counts)), CPU).explained(Fixed(np.log(depth)))) < 0.15


def test_chance_makes_products_of_zero_in_batches_of_any_size():
    expression = torch.from_numpy(np.random.default_rng(0).normal(size=(12, 20_000)).astype(np.float32))
    products = _products(expression).fill_diagonal_(0)
    assert abs(float(products.sum()) / (12 * 11)) < 0.01 * 20_000


def test_few_cells_are_not_looked_at_and_many_are_drawn_from_the_largest_batches():
    counts, _ = counts_of(22, 2)
    assert np.isnan(Neighborhoods(counts, np.arange(22), CPU).explained(Fixed(np.zeros((22, 2)))))
    batch_index = np.repeat(np.arange(6), [700, 10, 600, 500, 400, 300])
    cells = draw_cells(batch_index, np.arange(len(batch_index)), np.random.default_rng(0))
    assert len(cells) == MAX_CELLS
    assert set(batch_index[cells]) == {0, 2, 3, 4}


def test_the_global_random_state_is_left_alone():
    counts, _ = counts_of()
    state = torch.get_rng_state()
    first = Neighborhoods(counts, np.arange(len(counts)), CPU).pca_covariance
    assert Neighborhoods(counts, np.arange(len(counts)), CPU).pca_covariance == pytest.approx(first, abs=0)
    assert torch.equal(torch.get_rng_state(), state)
