import numpy as np
import pytest
import torch

from sc_vaenb.model import sparse_linear as module
from sc_vaenb.model.minibatch import Minibatch
from sc_vaenb.model.network import Linear
from sc_vaenb.model.sparse_linear import is_sparse, sparse_linear


def minibatch(density, n_cells=9, n_genes=50):
    rng = np.random.default_rng(0)
    x = rng.integers(1, 9, (n_cells, n_genes)) * (rng.random((n_cells, n_genes)) < density)
    x[3] = 0  # a cell without counts in these genes
    row, gene = map(torch.from_numpy, np.nonzero(x))
    count = torch.from_numpy(x[row, gene].astype(np.float32))
    return Minibatch(row, gene, count, torch.ones(n_cells), torch.zeros(n_cells, dtype=torch.int64), n_genes)


@pytest.mark.parametrize("density", [0.0, 0.05, 0.15, 0.6])
@pytest.mark.parametrize("by_gene", [False, True], ids=["rows", "transposed memory"])
def test_values_and_gradients_are_those_of_the_dense_layer(density, by_gene):
    batch, layer = minibatch(density), Linear(50, 7)
    layer.draw(torch.Generator().manual_seed(0))
    if by_gene:
        layer.weight.data = layer.weight.data.t().contiguous().t()
    assert is_sparse(batch) == (density < module.DENSE_FROM)
    values, weight = torch.log1p(batch.count), torch.linspace(-1, 2, 63).view(9, 7)
    expected = torch.nn.functional.linear(batch.dense(values), layer.weight, layer.bias)
    expected_gradients = torch.autograd.grad((expected * weight).sum(), [layer.weight, layer.bias])
    found = sparse_linear(layer, values, batch)
    gradients = torch.autograd.grad((found * weight).sum(), [layer.weight, layer.bias])
    torch.testing.assert_close(found, expected)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, expected_gradient)
