"""`tl.normalized`: what the model expects of each gene, against the plain formula."""

import anndata as ad
import numpy as np
import pytest
import torch
from scipy import sparse as sp

import sc_vaenb
from sc_vaenb._record import FittedModel
from sc_vaenb.tl._counts import read_counts


def normalized(adata, *args, **options):
    name = options.get("key_added", "normalized")
    sc_vaenb.tl.normalized(adata, *args, device="cpu", **options)
    return adata.layers[name] if options.get("genes") is None else adata.obsm[name]


def step_cpu(adata, cell):
    """Encoder's mean, decoder, likelihood's mean of one cell with the size factor 1, brought to 10,000 in all."""
    stored = FittedModel.from_uns(adata, "vae")
    counts = read_counts(adata, "vae", stored)
    with torch.no_grad():
        batch = counts.minibatch(slice(cell, cell + 1), torch.device("cpu"))
        mean, _ = stored.model.encode(batch)
        batch.size_factor[:] = 1
        raw = stored.model.decode(mean, batch)
        mu = stored.model.likelihood.log_mean(raw, stored.model.offset(batch)).exp().double()
    return (1e4 * mu / mu.sum()).numpy()[0]


@pytest.mark.parametrize("likelihood", ["nb", "zinb", "poisson", "gaussian"])
def test_it_is_what_the_model_says_by_hand(adata, fast, likelihood):
    sc_vaenb.tl.cvae(adata, "batch", likelihood=likelihood, **fast)
    values = normalized(adata)
    assert values.dtype == np.float32
    for cell in (0, 7, 299):
        np.testing.assert_allclose(values[cell], step_cpu(adata, cell), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(values.sum(1), 1e4, rtol=1e-5)


@pytest.mark.parametrize("options", [{"link": "exp", "size_factor_as": "covariate"}, {"link": "softplus"}], ids=str)
def test_free_rates_and_models_without_batches_are_brought_to_the_target_too(adata, fast, options):
    sc_vaenb.tl.vae(adata, **options, **fast)
    values = normalized(adata, target_sum=500)
    np.testing.assert_allclose(values.sum(1), 500, rtol=1e-5)
    np.testing.assert_allclose(values[3], step_cpu(adata, 3) / 20, rtol=1e-4, atol=1e-5)


def test_blocks_of_cells_do_not_matter(fitted, monkeypatch):
    whole = normalized(fitted)
    part = normalized(fitted, threshold=5, key_added="part").toarray()
    monkeypatch.setattr("sc_vaenb.inference.posterior.CELLS_DECODED_AT_ONCE", 7)  # 300 cells are 42 blocks and a rest
    np.testing.assert_allclose(normalized(fitted, key_added="again"), whole, rtol=1e-4)
    np.testing.assert_allclose(normalized(fitted, threshold=5, key_added="again").toarray(), part, rtol=1e-4)
    np.testing.assert_allclose(normalized(fitted, genes=["gene_3"])["gene_3"], whole[:, 3], rtol=1e-4)


def test_sparse_is_dense_above_the_threshold(fitted):
    whole = normalized(fitted)
    found = normalized(fitted, threshold=50, key_added="sparse")
    assert sp.issparse(found)
    assert found.format == "csr"
    assert found.dtype == np.float32
    assert 0 < found.nnz == (whole >= 50).sum() < whole.size
    np.testing.assert_array_equal(found.toarray(), np.where(whole >= 50, whole, 0))


def test_chosen_genes_are_a_table_in_their_order(fitted):
    whole = normalized(fitted)
    before = list(fitted.layers)
    found = normalized(fitted, genes=["gene_7", "gene_2"], threshold=60)
    assert list(found.columns) == ["gene_7", "gene_2"]
    assert list(found.index) == list(fitted.obs_names)
    expected = whole[:, [7, 2]]
    np.testing.assert_array_equal(found.to_numpy(), np.where(expected >= 60, expected, 0))
    assert list(fitted.layers) == before
    assert list(normalized(fitted, genes="gene_4", key_added="one").columns) == ["gene_4"]


def test_genes_besides_hold_nan_and_order_does_not_matter(adata, fast, log):
    adata.var["highly_variable"] = np.arange(100) % 4 > 0
    sc_vaenb.tl.vae(adata, **fast)
    values = normalized(adata)
    assert "25 of 100 genes are not in the model and will hold NaN" in log.getvalue()
    np.testing.assert_array_equal(np.isnan(values).all(0), ~adata.var["highly_variable"])
    np.testing.assert_allclose(np.nansum(values, 1), 1e4, rtol=1e-5)
    order = np.random.default_rng(0).permutation(100)
    shuffled = adata[:, order].copy()
    np.testing.assert_allclose(normalized(shuffled, key_added="again"), values[:, order], rtol=1e-4)
    known = adata[:, order][:, adata.var["highly_variable"].to_numpy()[order]].copy()
    expected = known.layers["normalized"].copy()
    np.testing.assert_allclose(normalized(known, threshold=0).toarray(), expected, rtol=1e-4)


def test_samples_of_the_posterior_surround_its_mean(fitted):
    mean = normalized(fitted)
    one, same, other = (normalized(fitted, n_samples=1, rng=rng, key_added=f"s{i}") for i, rng in enumerate((0, 0, 1)))
    np.testing.assert_array_equal(one, same)
    many = normalized(fitted, n_samples=10, key_added="many")
    np.testing.assert_allclose(many.sum(1), 1e4, rtol=1e-4)
    assert 0 < np.abs(many - mean).mean() < 0.5 * np.abs(one - mean).mean()
    assert np.abs(one - other).mean() > 0


def test_the_logs_name_what_was_added_and_replaced(fitted, log):
    import scanpy as sc

    sc.settings.verbosity = 4
    normalized(fitted)
    assert "computing denoised expression of 300 cells x 100 genes with uns['vae']" in log.getvalue()
    assert "'normalized', denoised expression (adata.layers)" in log.getvalue()
    assert "replacing" not in log.getvalue()
    normalized(fitted)
    assert "replacing layers['normalized']; pass key_added to keep several" in log.getvalue()


def test_it_works_on_views_and_files(adata, fast, tmp_path, unchanged):
    sc_vaenb.tl.vae(adata, layer=None, **fast)
    with unchanged(adata):
        part = normalized(adata[100:])
    values = normalized(adata)
    np.testing.assert_allclose(part, values[100:], rtol=1e-4)
    normalized(adata, genes=["gene_1"])
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    np.testing.assert_allclose(normalized(backed, key_added="again"), values, rtol=1e-4)
    np.testing.assert_array_equal(backed.layers["normalized"], values)
    np.testing.assert_array_equal(backed.obsm["normalized"]["gene_1"], values[:, 1])
    backed.file.close()


# refusals


def test_a_missing_model_and_missing_genes_are_refused(fitted, refused):
    with refused(fitted, KeyError, r"uns\['no'\] holds no model fitted by sc_vaenb; uns has \['vae'\]"):
        sc_vaenb.tl.normalized(fitted, "no")
    part = fitted[:, 2:].copy()
    with refused(part, ValueError, r"2 of the 100 genes of the model in uns\['vae'\] are not in var_names"):
        sc_vaenb.tl.normalized(part)
    del fitted.uns["vae"]["model"]["weights"]["encoder.first.bias"]
    with refused(fitted, ValueError, r"the model in uns\['vae'\] is damaged"):
        sc_vaenb.tl.normalized(fitted)


def test_genes_that_cannot_be_are_refused(fitted, refused):
    text = r"genes holds 1 that are not in the model in uns\['vae'\] \(first: 'CD3D'\)\. It knows 100, among them \['g"
    with refused(fitted, ValueError, text):
        sc_vaenb.tl.normalized(fitted, genes=["gene_0", "CD3D"])
    for genes in ([], ["gene_0", "gene_0"]):
        with refused(fitted, ValueError, r"genes=\[.*\] is empty or names a gene twice\. Give each gene once, or None"):
            sc_vaenb.tl.normalized(fitted, genes=genes)


def test_a_sparse_layer_with_unknown_genes_is_refused(adata, fast, refused):
    adata.var["highly_variable"] = np.arange(100) > 2
    sc_vaenb.tl.vae(adata, **fast)
    text = r"3 of 100 genes are not in the model in uns\['vae'\] \(first: 'gene_0'\), and a sparse layer would say that"
    with refused(adata, ValueError, text):
        sc_vaenb.tl.normalized(adata, threshold=1)
    known = adata[:, adata.uns["vae"]["model"]["genes"]].copy()  # what the message advises
    assert normalized(known, threshold=1).shape == (300, 97)


def test_the_counts_are_not_overwritten(fitted, refused):
    with refused(fitted, ValueError, r"key_added='counts' is the layer with the counts of the model in uns\['vae'\]"):
        sc_vaenb.tl.normalized(fitted, key_added="counts")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"target_sum": 0}, r"target_sum=0 is not possible\. Give a number above 0"),
        ({"n_samples": -1}, r"n_samples=-1 is not possible\. Give a whole number at least 0"),
        ({"threshold": -1}, r"threshold=-1 is not possible\. Give a number at least 0"),
        ({"rng": "0"}, r"rng='0' is not possible\. Give a whole number"),
        ({"key_added": "a/b"}, r"key_added='a/b' is not possible"),
        ({"device": "abacus"}, r"device='abacus' is not available here"),
    ],
    ids=str,
)
def test_arguments_that_cannot_be_are_refused(fitted, refused, options, text):
    with refused(fitted, ValueError, text):
        sc_vaenb.tl.normalized(fitted, **options)
