"""`tl.sample`: new cells have the moments of the model, the type drawn around, and a record of their origin."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sc_vaenb
from sc_vaenb._record import FittedModel
from sc_vaenb.tl._counts import read_counts


@pytest.fixture(scope="session")
def _learned(simulated):
    """A fit that has seen enough to know types and batches."""
    options = {"n_latent": 4, "hidden": (32,), "n_steps": 200, "prior": "conditional", "device": "cpu"}
    return sc_vaenb.tl.cvae(simulated, "batch", copy=True, **options)


@pytest.fixture
def learned(_learned):
    return _learned.copy()


def sampled(adata, *args, **options):
    return sc_vaenb.tl.sample(adata, *args, device="cpu", **options)


def dense(adata):
    return adata.X.toarray()


def likeliest(adata, new, by):
    """For each new cell the type, or the batch in its likeliest type, whose true profile makes its counts likeliest."""
    truth, theta = adata.uns["truth"], adata.var["theta"].to_numpy()
    rates = np.exp(truth["type_log_rate"][:, None] + truth["batch_log_effect"])  # types x batches x genes
    shares = rates / rates.sum(-1, keepdims=True)
    counts = dense(new)
    mu = counts.sum(1)[:, None, None, None] * (shares if by == "batch" else shares.mean(1, keepdims=True))
    x = counts[:, None, None]
    fit = (x * np.log(mu / (mu + theta)) - theta * np.log(mu + theta)).sum(-1)  # cells x types x batches
    return fit.max(1).argmax(1) if by == "batch" else fit[:, :, 0].argmax(1)


def test_the_same_seed_gives_the_same_counts_and_another_others(learned, unchanged):
    with unchanged(learned):
        first = sampled(learned, 50, rng=3)
    again, other = sampled(learned, 50, rng=3), sampled(learned, 50, rng=4)
    np.testing.assert_array_equal(dense(first), dense(again))
    assert first.obs["source_cell"].tolist() == again.obs["source_cell"].tolist()
    assert first.obs["source_cell"].tolist() != other.obs["source_cell"].tolist()
    assert (dense(sampled(learned, rng=3)) != dense(sampled(learned, rng=4))).mean() > 0.1


def test_global_random_states_are_left_alone(learned):
    import torch

    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    expected = torch.rand(1).item(), np.random.rand()  # noqa: NPY002
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002
    sampled(learned, 20)
    sampled(learned, 20, source="prior")
    assert (torch.rand(1).item(), np.random.rand()) == expected  # noqa: NPY002


def test_counts_of_the_genes_of_the_model_with_where_they_come_from(learned):
    new = sampled(learned)
    assert new.X.format == "csr"
    assert new.X.dtype == np.float32
    assert (new.X.data == np.rint(new.X.data)).all()
    assert new.X.data.min() > 0
    assert new.var_names.tolist() == list(learned.uns["vae"]["model"]["genes"])
    assert new.obs["source_cell"].tolist() == learned.obs_names.tolist()  # one around each, in their order
    assert new.obs["batch"].tolist() == learned.obs["batch"].tolist()
    depth = np.asarray(learned.layers["counts"].sum(axis=1)).ravel()
    np.testing.assert_array_equal(new.obs["size_factor"], depth)
    assert new.obs_names.is_unique


def test_genes_in_another_order_give_the_same_cells(learned):
    order = np.random.default_rng(0).permutation(100)
    np.testing.assert_array_equal(dense(sampled(learned[:, order].copy())), dense(sampled(learned)))


def test_moments_are_those_of_the_posterior_and_the_likelihood(learned):
    """Mean and variance over many draws around one cell, against sums over states drawn here."""
    import torch

    cell = learned.obs_names[7]
    new = dense(sampled(learned, 4000, cells=[cell]))
    stored = FittedModel.from_uns(learned, "vae")
    with torch.inference_mode():
        batch = read_counts(learned, "vae", stored).minibatch(np.full(4000, 7), torch.device("cpu"))
        mean, log_var = stored.model.encode(batch)
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
        z = mean + (0.5 * log_var).exp() * noise
        mu = stored.model.log_mean(z, batch.size_factor, batch.batch_index).exp().double().numpy()
        theta = stored.model.likelihood.log_theta.exp().double().numpy()
    variance = mu.var(0) + (mu + mu**2 / theta).mean(0)
    error = (new.mean(0) - mu.mean(0)) / np.sqrt(variance / 4000 + mu.var(0) / 4000)
    assert np.abs(error).max() < 4.5
    often = mu.mean(0) > 0.5  # elsewhere the variance of 4,000 draws is too uncertain itself
    np.testing.assert_allclose(new.var(0)[often], variance[often], rtol=0.25)
    assert np.abs(np.log(new.var(0)[often] / variance[often]).mean()) < 0.05


def test_cells_drawn_around_a_label_have_that_label(learned):
    real = likeliest(learned, learned, "type") == learned.obs["cell_type"].cat.codes  # overlapping types: not all
    assert real.mean() > 0.9
    for code, label in enumerate(learned.obs["cell_type"].cat.categories):
        new = sampled(learned, 200, groups={"cell_type": label})
        assert set(learned.obs["cell_type"].loc[new.obs["source_cell"]]) == {label}
        assert (likeliest(learned, new, "type") == code).mean() > real.mean() - 0.1
    both = sampled(learned, groups={"cell_type": ["type_0", "type_2"], "batch": "batch_1"})
    wanted = learned.obs["cell_type"].isin(["type_0", "type_2"]) & (learned.obs["batch"] == "batch_1")
    assert both.obs["source_cell"].tolist() == learned.obs_names[wanted].tolist()


def test_cells_are_chosen_by_name_or_mask_and_labels_may_be_numbers(learned):
    mask = np.arange(300) % 50 == 0
    by_mask, by_name = sampled(learned, cells=mask), sampled(learned, cells=list(learned.obs_names[mask]))
    np.testing.assert_array_equal(dense(by_mask), dense(by_name))
    assert by_mask.obs["source_cell"].tolist() == learned.obs_names[mask].tolist()
    assert set(sampled(learned, 5, cells="cell_3").obs["source_cell"]) == {"cell_3"}
    learned.obs["cluster"] = pd.Series(np.arange(300) % 7, index=learned.obs_names).astype("category")
    learned.obs.loc["cell_3", "cluster"] = np.nan
    new = sampled(learned, cells=learned.obs_names[:20], groups={"cluster": 3})
    assert new.obs["source_cell"].tolist() == ["cell_10", "cell_17"]


def test_the_batch_asked_for_shows_in_the_counts(learned):
    for code, batch in enumerate(["batch_0", "batch_1"]):
        new = sampled(learned, 200, batch=batch, size_factor=2000)
        assert set(new.obs["batch"]) == {batch}
        assert set(learned.obs["batch"].loc[new.obs["source_cell"]]) == {"batch_0", "batch_1"}
        assert (likeliest(learned, new, "batch") % 2 == code).mean() > 0.8


@pytest.mark.parametrize("source", ["posterior", "prior"])
def test_the_depth_asked_for_is_that_of_the_counts(learned, source):
    new = sampled(learned, 300, source=source, size_factor=1500)
    assert new.obs["size_factor"].tolist() == [1500] * 300
    depth = dense(new).sum(1)
    assert abs(depth.mean() / 1500 - 1) < 0.03
    own = sampled(learned, source=source)
    found = np.corrcoef(dense(own).sum(1), own.obs["size_factor"])[0, 1]
    assert found > 0.6


def test_size_factors_of_a_column_have_its_name_and_unit(adata, fast):
    adata.obs["sf"] = np.linspace(0.5, 2, 300)
    sc_vaenb.tl.vae(adata, size_factor="sf", **fast)
    new = sampled(adata)
    assert list(new.obs) == ["source_cell", "sf"]  # and no batch: the model knows none
    np.testing.assert_array_equal(new.obs["sf"], adata.obs["sf"])
    shallow, deep = sampled(adata, 200, size_factor=0.5), sampled(adata, 200, size_factor=2.0)
    assert dense(deep).sum() / dense(shallow).sum() == pytest.approx(4, rel=0.1)


def test_the_prior_is_that_of_the_batch(learned, latent_states):
    """A conditional prior moved by hand: cells of batch_1 come from the states of a type, those of batch_0 do not."""
    weights = learned.uns["vae"]["model"]["weights"]
    states = latent_states(learned)
    for batch, label in enumerate(["type_0", "type_2"]):
        chosen = states[(learned.obs["cell_type"] == label).to_numpy()]
        weights["prior.mean"][batch] = chosen.mean(0)
        weights["prior.log_var"][batch] = -9.0
    new = sampled(learned, 200, source="prior", size_factor=1000)
    assert "source_cell" not in new.obs
    found = likeliest(learned, new, "type")
    assert (found[(new.obs["batch"] == "batch_0").to_numpy()] == 0).mean() > 0.9
    assert (found[(new.obs["batch"] == "batch_1").to_numpy()] == 2).mean() > 0.9
    assert 60 < (new.obs["batch"] == "batch_0").sum() < 140  # as often as in the data
    weights["prior.log_var"][:] = 3.0
    assert len(set(likeliest(learned, sampled(learned, 200, source="prior"), "type"))) == 3


def test_states_have_the_moments_of_prior_and_posterior(learned, fitted):
    import torch

    from sc_vaenb.inference.sample import states_around, states_of_prior

    model = FittedModel.from_uns(learned, "vae").model
    codes = np.repeat([0, 1], 5000)
    z = states_of_prior(model, codes, 0)
    for code in (0, 1):
        mean, log_var = (part[code].detach().numpy() for part in (model.prior.mean, model.prior.log_var))
        np.testing.assert_allclose((z[codes == code].mean(0) - mean) / np.exp(0.5 * log_var), 0, atol=0.07)
        np.testing.assert_allclose(z[codes == code].std(0) / np.exp(0.5 * log_var), 1, atol=0.05)
    standard = states_of_prior(FittedModel.from_uns(fitted, "vae").model, codes, 0)
    np.testing.assert_allclose(standard.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(np.cov(standard.T), np.eye(4), atol=0.05)

    counts = read_counts(learned, "vae", FittedModel.from_uns(learned, "vae"))
    with torch.inference_mode():
        mean, log_var = (part.numpy() for part in model.encode(counts.minibatch(slice(None), torch.device("cpu"))))
    noise = np.stack([states_around(model, counts, seed, torch.device("cpu")) - mean for seed in range(20)])
    noise /= np.exp(0.5 * log_var)
    np.testing.assert_allclose(noise.mean((0, 1)), 0, atol=0.07)
    np.testing.assert_allclose(noise.std((0, 1)), 1, atol=0.05)


def test_size_factors_of_the_prior_are_those_of_the_batch(learned):
    shallow = learned.obs["batch"] == "batch_0"
    learned.layers["counts"] = learned.layers["counts"].multiply(np.where(shallow, 1, 5)[:, None]).tocsr()
    depth = np.asarray(learned.layers["counts"].sum(axis=1)).ravel()
    new = sampled(learned, 100, source="prior", batch="batch_1")
    assert set(new.obs["size_factor"]) <= set(depth[~shallow])
    assert (np.diff(new.obs["size_factor"]) != 0).any()


def test_it_knows_where_it_comes_from_and_a_file_keeps_that(learned, tmp_path):
    learned.obs["n/a"] = "x"  # a name that no file could hold as a key
    new = sampled(learned, 30, groups={"cell_type": "type_1", "n/a": ["x"]}, batch="batch_1", size_factor=700.0, rng=5)
    new.write_h5ad(tmp_path / "new.h5ad")
    read = ad.read_h5ad(tmp_path / "new.h5ad")
    params = read.uns["sample"]["params"]
    assert params.pop("version") == sc_vaenb.__version__
    assert params == {
        "key": "vae",
        "source": "posterior",
        "n_cells": 30,
        "n_source_cells": 100,
        "groups": '{"cell_type": ["type_1"], "n/a": ["x"]}',
        "batch": "batch_1",
        "size_factor": 700.0,
        "rng": 5,
    }
    assert read.uns["sample"]["fit"]["method"] == "cvae"
    assert read.uns["sample"]["fit"]["rng"] == learned.uns["vae"]["params"]["rng"]
    np.testing.assert_array_equal(dense(read), dense(new))
    assert read.obs["source_cell"].tolist() == new.obs["source_cell"].tolist()
    assert read.obs["batch"].tolist() == ["batch_1"] * 30


def test_a_model_read_from_a_file_draws_the_same_cells(learned, tmp_path):
    learned.write_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(dense(sampled(ad.read_h5ad(tmp_path / "a.h5ad"))), dense(sampled(learned)))


@pytest.mark.slow
@pytest.mark.parametrize("likelihood", ["poisson", "zinb", "gaussian"])
def test_every_likelihood_draws_whole_numbers(adata, fast, likelihood):
    sc_vaenb.tl.vae(adata, likelihood=likelihood, **fast)
    new = sampled(adata)
    assert (new.X.data == np.rint(new.X.data)).all()
    if likelihood != "gaussian":  # which knows no counts
        assert 0.5 < new.X.sum() / adata.X.sum() < 2


# refusals


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"n_cells": 0}, ValueError, r"n_cells=0 is not possible\. Give a whole number at least 1"),
        ({"rng": -1}, ValueError, r"rng=-1 is not possible\. Give a whole number at least 0"),
        ({"size_factor": 0}, ValueError, r"size_factor=0 is not possible\. Give a number above 0"),
        ({"source": "mean"}, ValueError, r"source='mean' is not known\. Choose one of \['posterior', 'prior'\]"),
        ({"device": "tpu9"}, ValueError, r"device='tpu9' is not available here"),
        ({"key": "no"}, KeyError, r"uns\['no'\] holds no model fitted by sc_vaenb; uns has \['vae'\]"),
        ({"batch": "b9"}, ValueError, r"batch='b9' is no batch of the model in uns\['vae'\], which knows \['batch_0',"),
        ({"cells": ["cell_1", "no"]}, ValueError, r"1 of cells are not in obs_names \(first: 'no'\)"),
        ({"cells": [1, 2]}, ValueError, r"cells has dtype int64 and shape \(2,\); give names of cells, or 300 bool"),
        ({"cells": np.ones(3, bool)}, ValueError, r"cells has dtype bool and shape \(3,\); give names"),
        ({"cells": np.zeros(300, bool)}, ValueError, r"no cell is in cells and has all the labels .* Use fewer"),
        ({"groups": "B"}, TypeError, r"groups='B' is not possible\. Give a dict from columns of obs to labels"),
        ({"groups": {"no": "B"}}, KeyError, r"groups='no' is not in adata\.obs\. Its columns are"),
        (
            {"groups": {"cell_type": "B"}},
            ValueError,
            r"no cell has the label 'B' in obs\['cell_type'\], which holds \['type_0', 'type_1', 'type_2'\]\. Choose",
        ),
        ({"source": "prior", "groups": {"cell_type": "type_0"}}, ValueError, r"source='prior' draws around no cells"),
    ],
)
def test_what_cannot_be_is_refused(learned, refused, options, error, text):
    with refused(learned, error, text):
        sc_vaenb.tl.sample(learned, **options)


def test_cells_that_do_not_have_the_labels_are_refused(learned, refused):
    other = learned.obs["cell_type"] != "type_0"
    with refused(learned, ValueError, r"no cell is in cells and has all the labels in groups=\{'cell_type': 't"):
        sc_vaenb.tl.sample(learned, cells=other, groups={"cell_type": "type_0"})


def test_a_batch_for_a_model_without_batches_is_refused(adata, fast, refused):
    sc_vaenb.tl.vae(adata, **fast)
    with refused(adata, ValueError, r"batch='batch_0' is no batch .* which knows no batches\. Leave it out"):
        sc_vaenb.tl.sample(adata, batch="batch_0")


def test_a_prior_for_a_batch_without_cells_needs_a_size_factor(learned, refused):
    one = learned[learned.obs["batch"] == "batch_0"].copy()
    with refused(one, ValueError, r"no cell of adata is in batch 'batch_1', .* Give size_factor"):
        sc_vaenb.tl.sample(one, source="prior", batch="batch_1")
    assert set(sampled(one, 5, source="prior", batch="batch_1", size_factor=100).obs["batch"]) == {"batch_1"}


def test_missing_genes_and_damaged_records_are_refused(learned, refused):
    part = learned[:, 2:].copy()
    with refused(part, ValueError, r"2 of the 100 genes of the model in uns\['vae'\] are not in var_names"):
        sc_vaenb.tl.sample(part)
    del learned.uns["vae"]["model"]["weights"]["prior.mean"]
    with refused(learned, ValueError, r"the model in uns\['vae'\] is damaged"):
        sc_vaenb.tl.sample(learned)
    with pytest.raises(TypeError, match="adata is a dict, not an AnnData"):
        sc_vaenb.tl.sample({})
