"""Covariates beside the batch: `covariate_keys` of `tl.vae` and `tl.cvae`."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse as sp
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import cross_val_predict

import sc_vaenb
from sc_vaenb._record import FittedModel
from sc_vaenb.tl._counts import read_counts
from sc_vaenb.tl._covariates import learn_covariates, read_covariates


def explained(embedding, values):
    """Share of the variance of some values that the embedding predicts in cells left out."""
    predicted = cross_val_predict(LinearRegression(), embedding, values, cv=5)
    return 1 - ((predicted - values) ** 2).sum() / ((values - values.mean()) ** 2).sum()


@pytest.fixture(scope="module")
def measured():
    """Cells of three types whose counts also depend on a number and on a kit, both without biology."""
    adata = sc_vaenb.datasets.simulate(800, 150, n_types=3, n_batches=2, rng=0)
    random = np.random.default_rng(0)
    adata.obs["score"] = random.normal(size=adata.n_obs)
    adata.obs["kit"] = pd.Categorical(random.choice(["v2", "v3"], adata.n_obs))
    effect = np.outer(adata.obs["score"], random.normal(0, 0.3, adata.n_vars))
    effect += np.outer(adata.obs["kit"] == "v3", random.normal(0, 0.4, adata.n_vars))
    adata.layers["counts"] = sp.csr_matrix(random.poisson(adata.X.toarray() * np.exp(effect)).astype(np.float32))
    return adata


@pytest.fixture(scope="module")
def told(measured):
    return sc_vaenb.tl.cvae(measured, "batch", covariate_keys=["score", "kit"], n_steps=250, n_latent=8, copy=True)


@pytest.mark.slow
def test_the_embedding_no_longer_says_what_the_model_is_told(measured, told):
    blind = sc_vaenb.tl.cvae(measured, "batch", n_steps=250, n_latent=8, copy=True)
    kit = (measured.obs["kit"] == "v3").to_numpy(dtype=float)
    for values in (measured.obs["score"].to_numpy(), kit):
        assert explained(blind.obsm["X_vae"], values) > 0.5
        assert explained(told.obsm["X_vae"], values) < 0.2
    types = measured.obs["cell_type"].cat.codes.to_numpy(dtype=float)
    assert explained(told.obsm["X_vae"], types) > 0.8


def test_numbers_are_standardised_and_categories_centred(measured):
    learned = learn_covariates(measured, ["score", "kit"], "batch")
    values = read_covariates(measured, learned)
    np.testing.assert_allclose(values.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(values[:, 0].std(), 1, rtol=1e-5)
    kit = measured.obs["kit"].to_numpy()
    np.testing.assert_allclose(values[kit == "v3", 2] - values[kit == "v2", 2].max(), 1, rtol=1e-6)


@pytest.mark.parametrize("kind", [bool, str, "category", "string"])
def test_whatever_is_no_number_is_a_category(measured, kind):
    a = ad.AnnData(obs=measured.obs[["kit"]].copy())
    column = a.obs["kit"] == "v3"
    a.obs["kit"] = column if kind is bool else column.astype(str).astype(kind)
    assert learn_covariates(a, ["kit"], None)[0]["names"] == ["False", "True"]


def test_a_file_knows_its_covariates(told, tmp_path):
    told.write_h5ad(tmp_path / "a.h5ad")
    read = ad.read_h5ad(tmp_path / "a.h5ad")
    assert list(read.uns["vae"]["params"]["covariate_keys"]) == ["score", "kit"]
    sc_vaenb.tl.embed(read, key_added="again")
    np.testing.assert_array_equal(read.obsm["X_again"], told.obsm["X_vae"])
    some = read[:50].copy()  # cells by themselves are scaled as the fitted ones were
    sc_vaenb.tl.embed(some, key_added="again")
    np.testing.assert_allclose(some.obsm["X_again"], told.obsm["X_vae"][:50], atol=1e-4)


@torch.inference_mode()
def test_counts_are_drawn_with_the_cells_own_covariates_and_normalised_without(told):
    """Drawn counts follow the kit of each cell; normalised expression is that at the mean of the covariates."""
    stored = FittedModel.from_uns(told, "vae")
    cells = read_counts(told, "vae", stored).minibatch(np.arange(told.n_obs), torch.device("cpu"))
    z = stored.model.encode(cells)[0]
    v3 = torch.from_numpy((told.obs["kit"] == "v3").to_numpy(copy=True))
    own, mean = (
        stored.model.log_mean(z, torch.ones(len(z)), cells.batch_index, side_inputs)
        for side_inputs in (cells.side_inputs, None)
    )
    counts = cells.dense(cells.count) / cells.size_factor.unsqueeze(1)
    seen = (counts[v3].mean(0) / counts[~v3].mean(0)).log()

    def agreement(log_mean):
        ratio = log_mean.exp()[v3].mean(0).log() - log_mean.exp()[~v3].mean(0).log()
        return torch.corrcoef(torch.stack([ratio, seen]))[0, 1].item()

    assert agreement(own) > 0.9
    assert abs(agreement(mean)) < 0.5


def test_new_cells_are_mapped_with_their_covariates(told, measured, refused):
    query = measured[::4].copy()
    query.obs["batch"] = "new"
    sc_vaenb.tl.map_query(query, told, batch_key="batch", n_steps=20)
    again = query.copy()
    sc_vaenb.tl.embed(again, key_added="again")
    np.testing.assert_allclose(again.obsm["X_again"], query.obsm["X_vae"], atol=1e-4)
    other = query.copy()
    other.obs["kit"] = "v4"
    with refused(other, ValueError, r"obs\['kit'\] holds \['v4'\], which the model was not fitted on\. It knows"):
        sc_vaenb.tl.embed(other)
    other.obs["kit"], other.obs["score"] = "v3", "high"
    with refused(other, ValueError, r"obs\['score'\] has dtype .*, but held numbers in the fit\. Convert it\."):
        sc_vaenb.tl.embed(other)


@pytest.mark.parametrize(
    ("keys", "error", "text"),
    [
        ("nothing", KeyError, r"covariate_keys='nothing' is not in adata\.obs"),
        ([1], TypeError, r"covariate_keys=\[1\] is not possible"),
        (["kit", "kit"], ValueError, r"covariate_keys=\['kit', 'kit'\] names a column twice"),
        (["nothing"], KeyError, r"covariate_keys='nothing' is not in adata\.obs\. Its columns are"),
        (["batch"], ValueError, r"covariate_keys holds 'batch', which is a batch_key: .* Leave it out\."),
        (["gaps"], ValueError, r"obs\['gaps'\] has no value for 1 cells \(first: '3'\)\. Fill them in"),
        (["infinite"], ValueError, r"obs\['infinite'\] has no value for 1 cells \(first: '3'\)"),
        (["same"], ValueError, r"obs\['same'\] is 2 for every cell: nothing can be learned from it"),
        (
            ["one"],
            ValueError,
            r"obs\['one'\] has 1 categories \(first: 'x'\); give columns with 2 to 100, or of numbers",
        ),
        (["names"], ValueError, r"obs\['names'\] has 300 categories"),
    ],
)
def test_refusals(adata, fast, refused, keys, error, text):
    adata.obs_names = [str(i) for i in range(adata.n_obs)]
    adata.obs["gaps"] = [np.nan if i == 3 else i for i in range(adata.n_obs)]
    adata.obs["infinite"] = [np.inf if i == 3 else i for i in range(adata.n_obs)]
    adata.obs["same"], adata.obs["one"], adata.obs["names"] = 2, "x", adata.obs_names.to_numpy()
    with refused(adata, error, text):
        sc_vaenb.tl.cvae(adata, "batch", covariate_keys=keys, **fast)


def test_labels_cannot_be_a_covariate(adata, fast, refused):
    text = r"labels_key='cell_type' is among covariate_keys: the model would see the labels that it should predict\."
    with refused(adata, ValueError, text):
        sc_vaenb.tl.cvae(adata, "batch", covariate_keys=["cell_type"], labels_key="cell_type", **fast)
