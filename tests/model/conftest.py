import numpy as np
import pytest
import torch
from scipy import sparse

from sc_vaenb.data.counts import Counts


@pytest.fixture
def counts():
    """60 cells x 40 genes in three batches: sparse, with a few counts beyond the look-up table."""
    rng = np.random.default_rng(0)
    dense = rng.negative_binomial(0.3, 0.1, size=(60, 40)) * rng.binomial(1, 0.4, size=(60, 40))
    dense[0, 0], dense[1, 1] = 5_000, 1
    dense[:, 39] = 0  # a gene never seen
    depth = dense.sum(1) + 1.0
    return Counts(
        sparse.csr_matrix(dense.astype(np.float32)),
        (depth / depth.mean()).astype(np.float32),
        np.arange(60, dtype=np.int64) % 3,
    )


@pytest.fixture
def batch(counts):
    return counts.minibatch(np.arange(60), torch.device("cpu"))
