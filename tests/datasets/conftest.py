"""What the tests of the data share: ways to judge counts, and two data sets that are not to be changed."""

import numpy as np
import pytest
from scipy import sparse as sp

from sc_vaenb import datasets


@pytest.fixture(scope="session")
def same_share():
    """Share of the k nearest neighbours (PCA of log-normalised counts) that agree with the cell in obs[key]."""

    def check(adata, key, k=15):
        import scanpy as sc
        from sklearn.neighbors import NearestNeighbors

        adata = adata.copy()
        sc.pp.normalize_total(adata)
        sc.pp.log1p(adata)
        sc.pp.pca(adata, n_comps=30)
        neighbours = NearestNeighbors(n_neighbors=k).fit(adata.obsm["X_pca"]).kneighbors(return_distance=False)
        code = adata.obs[key].cat.codes.to_numpy()
        return (code[neighbours] == code[:, None]).mean()

    return check


@pytest.fixture(scope="session")
def assert_raw_counts():
    """A function that fails unless X holds raw counts, without empty cells and silent genes."""

    def check(adata):
        assert isinstance(adata.X, sp.csr_matrix)
        assert adata.X.dtype == np.float32
        assert adata.X.has_canonical_format
        assert (adata.X.data >= 1).all()
        assert (adata.X.data == np.rint(adata.X.data)).all()
        assert (adata.X.getnnz(axis=0) > 0).all()
        assert (adata.X.getnnz(axis=1) > 0).all()
        assert set(adata.layers) <= {None}  # anndata 0.13 lists X here, under None

    return check


@pytest.fixture(scope="session")
def simulated():
    return datasets.simulate(4000, 300, n_types=3, n_batches=2, mean_depth=[600, 1500], theta=1.5, rng=1)


@pytest.fixture(scope="session")
def blood():
    return datasets.demo()
