"""`tl.corrected`: expression as if every cell came from one batch, or from all alike."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import scanpy as sc
import torch
from scipy import sparse as sp

import sc_vaenb
from sc_vaenb._record import FittedModel
from sc_vaenb.tl._counts import read_counts


def corrected(adata, *args, **options):
    before = set(adata.layers) | set(adata.obsm)
    sc_vaenb.tl.corrected(adata, *args, device="cpu", **options)
    (name,) = {*adata.layers, *adata.obsm} - before
    return adata.layers[name] if name in adata.layers else adata.obsm[name]


def step_cpu(adata, cell, batches):
    """Share of each gene of one cell: encoded in its own batch, aligned, decoded in others, averaged; 10,000 in all."""
    stored = FittedModel.from_uns(adata, "vae")
    counts = read_counts(adata, "vae", stored)
    shares = []
    with torch.no_grad():
        batch = counts.minibatch(slice(cell, cell + 1), torch.device("cpu"))
        mean, _ = stored.model.encode(batch)
        mean = stored.model.aligned(mean, batch.batch_index)
        batch.size_factor[:] = 1
        for code in batches:
            batch.batch_index[:] = code
            raw = stored.model.decode(mean, batch)
            mu = stored.model.likelihood.log_mean(raw, stored.model.offset(batch)).exp().double()
            shares.append((mu / mu.sum()).numpy()[0])
    return 1e4 * np.mean(shares, 0)


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "gaussian"])
def test_it_is_what_the_model_says_by_hand(adata, fast, likelihood):
    sc_vaenb.tl.cvae(adata, "batch", likelihood=likelihood, align=likelihood != "poisson", **fast)
    over_all = corrected(adata)
    as_second = corrected(adata, batch="batch_1", key_added="second")
    for cell in (0, 1, 299):
        np.testing.assert_allclose(over_all[cell], step_cpu(adata, cell, [0, 1]), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(as_second[cell], step_cpu(adata, cell, [1]), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(over_all.sum(1), 1e4, rtol=1e-5)
    counts = corrected(adata, counts=True)
    assert counts.format == "csr"
    assert counts.nnz == np.count_nonzero(counts.toarray()) > 0
    assert (counts.data == np.rint(counts.data)).all()


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "dispersion"), [(None, "gene-batch"), ("batch_0", "gene")])
def test_drawn_counts_have_the_expected_mean_at_each_cells_depth(adata, fast, batch, dispersion):
    sc_vaenb.tl.cvae(adata, "batch", dispersion=dispersion, **fast)
    shares = corrected(adata, batch=batch, target_sum=1)
    draws = [corrected(adata, batch=batch, counts=True, rng=i, key_added=f"c{i}").toarray() for i in range(10)]
    stored = FittedModel.from_uns(adata, "vae")
    size_factor = read_counts(adata, "vae", stored).size_factor
    expected = shares * (size_factor * stored.model.depth.numpy())[:, None]
    often = expected.mean(0) > 1
    np.testing.assert_allclose(np.mean(draws, (0, 1))[often], expected.mean(0)[often], rtol=0.15)
    np.testing.assert_allclose(np.mean(draws), expected.mean(), rtol=0.02)
    assert np.corrcoef(draws[0].sum(1), size_factor)[0, 1] > 0.5
    assert (draws[0] != draws[1]).any()
    np.testing.assert_array_equal(corrected(adata, batch=batch, counts=True, key_added="again").toarray(), draws[0])


def test_samples_and_tables_and_thresholds(fitted):
    whole = corrected(fitted)
    assert list(fitted.obsm) == ["X_vae"]
    few = corrected(fitted, genes=["gene_9", "gene_0"], key_added="few")
    np.testing.assert_array_equal(few[["gene_9", "gene_0"]].to_numpy(), whole[:, [9, 0]])
    counts = corrected(fitted, genes=["gene_9", "gene_0"], counts=True)
    np.testing.assert_array_equal(counts.to_numpy(), corrected(fitted, counts=True, key_added="c")[:, [9, 0]].toarray())
    found = corrected(fitted, threshold=40, key_added="high")
    assert sp.issparse(found)
    np.testing.assert_array_equal(found.toarray(), np.where(whole >= 40, whole, 0))
    many, one = (corrected(fitted, n_samples=n, key_added=f"s{n}") for n in (10, 1))
    assert 0 < np.abs(many - whole).mean() < 0.5 * np.abs(one - whole).mean()
    unsure = corrected(fitted, n_samples=1, counts=True, key_added="unsure")
    assert (unsure != fitted.layers["c"]).nnz


def test_blocks_do_not_matter(fitted, monkeypatch):
    whole = corrected(fitted)
    monkeypatch.setattr("sc_vaenb.inference.posterior.CELLS_DECODED_AT_ONCE", 77)
    np.testing.assert_allclose(corrected(fitted, key_added="again"), whole, rtol=1e-4)
    assert corrected(fitted, counts=True).shape == whole.shape


@pytest.mark.slow
def test_it_is_closer_to_the_truth_and_batches_agree():
    adata = sc_vaenb.datasets.simulate(400, 100, n_types=3, batch_strength=0.6, mean_depth=1000, rng=1)
    sc_vaenb.tl.cvae(adata, "batch", layer=None, n_latent=5, hidden=(32,), n_steps=250, device="cpu")
    plain = sc_vaenb.tl.normalized(adata, device="cpu", copy=True).layers["normalized"]
    types, batches = adata.obs["cell_type"].cat.codes.to_numpy(), adata.obs["batch"].cat.codes.to_numpy()
    effect = np.exp(adata.uns["truth"]["batch_log_effect"])
    truth = np.exp(adata.uns["truth"]["type_log_rate"])

    def per_10k(rates):
        return np.log1p(1e4 * rates / rates.sum(1, keepdims=True))

    def error(values, expected):
        return np.sqrt(np.mean((np.log1p(values) - expected) ** 2))

    def gap(values):
        means = [[np.log1p(values[(types == t) & (batches == b)]).mean(0) for b in (0, 1)] for t in range(3)]
        return np.abs(np.diff(means, axis=1)).mean()

    over_all, as_first = corrected(adata), corrected(adata, batch="batch_0", key_added="first")
    assert error(over_all, per_10k(truth * effect.mean(0))[types]) < 0.8 * error(plain, per_10k(truth)[types])
    assert error(as_first, per_10k(truth * effect[0])[types]) < 0.6 * error(plain, per_10k(truth * effect[0])[types])
    assert gap(over_all) < 0.3 * gap(plain)
    assert gap(as_first) < 0.3 * gap(plain)


def test_groups_are_corrected_within_themselves(fitted, refused):
    fitted.uns["vae"]["overlap"]["group"] = np.array([0, 1])
    np.testing.assert_allclose(
        corrected(fitted)[5], step_cpu(fitted, 5, [fitted.obs["batch"].cat.codes.iloc[5]]), rtol=1e-4
    )
    others = fitted.obs["batch"] == "batch_1"
    text = (
        rf"{others.sum()} cells \(first: '{fitted.obs_names[others][0]}', of batch 'batch_1'\) are not of a kind that "
        r"batch='batch_0' holds.* Pass batch=None, or an AnnData with cells of \['batch_0'\] alone\."
    )
    with refused(fitted, ValueError, text):
        sc_vaenb.tl.corrected(fitted, batch="batch_0")
    alone = fitted[~others].copy()
    np.testing.assert_allclose(corrected(alone, batch="batch_0", key_added="x"), alone.layers["corrected"], rtol=1e-4)


# refusals


def test_a_model_without_batches_is_refused(adata, fast, refused):
    sc_vaenb.tl.vae(adata, **fast)
    text = r"The model in uns\['vae'\] knows no batches, so there is nothing to correct\. .* or use sc_vaenb\.tl\.norm"
    with refused(adata, ValueError, text):
        sc_vaenb.tl.corrected(adata)


def test_a_wrong_key_missing_genes_and_damage_are_refused(fitted, refused):
    with refused(fitted, KeyError, r"uns\['no'\] holds no model fitted by sc_vaenb; uns has \['vae'\]"):
        sc_vaenb.tl.corrected(fitted, "no")
    part = fitted[:, 2:].copy()
    with refused(part, ValueError, r"2 of the 100 genes of the model in uns\['vae'\] are not in var_names"):
        sc_vaenb.tl.corrected(part)
    fitted.uns["vae"]["overlap"]["group"] = np.array([0])
    with refused(fitted, ValueError, r"damaged: overlap\['group'\] has the shape \(1,\), not \(2,\)\. Fit it again"):
        sc_vaenb.tl.corrected(fitted)
    del fitted.uns["vae"]["overlap"]
    with refused(fitted, ValueError, r"the model in uns\['vae'\] is damaged: overlap is None, not a mapping"):
        sc_vaenb.tl.corrected(fitted)


@pytest.mark.parametrize(
    ("error", "options", "text"),
    [
        (
            ValueError,
            {"batch": "b"},
            r"batch='b' is no batch of the model in .*knows \['batch_0', 'batch_1'\]",
        ),
        (TypeError, {"counts": "yes"}, r"counts='yes' is not possible\. Choose True or False"),
        (
            ValueError,
            {"counts": True, "n_samples": 2},
            r"n_samples=2 is not possible with counts=True.* Give 0 or 1",
        ),
        (ValueError, {"key_added": ""}, r"key_added='' is not possible"),
        (ValueError, {"genes": ["CD3D"]}, r"genes holds 1 that are not in the model .*first: 'CD3D'"),
    ],
    ids=["batch", "counts", "samples", "key", "genes"],
)
def test_arguments_that_cannot_be_are_refused(fitted, refused, error, options, text):
    with refused(fitted, error, text):
        sc_vaenb.tl.corrected(fitted, **options)


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning", "ignore::DeprecationWarning")  # scanpy's own
def test_a_umap_is_coloured_by_denoised_genes_as_documented(fitted):
    genes = ["gene_0", "gene_1", "gene_2"]
    fitted.obsm["X_umap"] = fitted.obsm["X_vae"][:, :2]
    sc_vaenb.tl.corrected(fitted, device="cpu")
    sc_vaenb.tl.corrected(fitted, genes=genes, device="cpu")
    of_layer = sc.pl.umap(fitted, color=genes, layer="corrected", show=False)
    table = sc.AnnData(fitted.obsm["corrected"], obsm={"X_umap": fitted.obsm["X_umap"]})
    of_table = sc.pl.umap(table, color=genes, show=False)
    for gene, *axes in zip(genes, of_layer, of_table, strict=True):
        for ax in axes:
            drawn = np.sort(ax.collections[0].get_array())
            np.testing.assert_allclose(drawn, np.sort(fitted.obsm["corrected"][gene]), rtol=1e-6)
    plt.close("all")
