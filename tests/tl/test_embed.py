"""`tl.embed`: the stored model gives the same embedding again, wherever the cells and genes are."""

import subprocess
import sys

import anndata as ad
import numpy as np
import pytest
from scipy import sparse as sp

import sc_vaenb


def embedded(adata, *args, **options):
    sc_vaenb.tl.embed(adata, *args, device="cpu", **options)
    return adata.obsm["X_" + options.get("key_added", "vae")]


def test_it_is_written_to_its_own_key_or_another(fitted, unchanged):
    stored = fitted.obsm.pop("X_vae")
    with unchanged(fitted):
        result = sc_vaenb.tl.embed(fitted, copy=True, device="cpu")
    assert list(result.obsm) == ["X_vae"]
    assert sc_vaenb.tl.embed(fitted, key_added="again", device="cpu") is None
    assert list(fitted.obsm) == ["X_again"]
    assert set(fitted.uns) == {"truth", "vae"}
    for found in (result.obsm["X_vae"], fitted.obsm["X_again"]):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, stored, rtol=0, atol=1e-6)


def test_the_model_of_any_key_is_used(fitted, fast):
    sc_vaenb.tl.vae(fitted, key_added="other", rng=3, **fast)
    stored = fitted.obsm["X_other"].copy()
    np.testing.assert_allclose(embedded(fitted, "other", key_added="again"), stored, rtol=0, atol=1e-6)
    assert np.abs(fitted.obsm["X_again"] - fitted.obsm["X_vae"]).max() > 0.01


def test_order_and_number_of_cells_do_not_matter(fitted):
    order = np.random.default_rng(0).permutation(300)[:200]
    shuffled = fitted[order].copy()
    np.testing.assert_allclose(embedded(shuffled), fitted.obsm["X_vae"][order], rtol=0, atol=1e-5)
    assert np.abs(np.diff(fitted.obsm["X_vae"], axis=0)).max() > 0.01  # the cells differ, so their order would show


def test_order_of_genes_and_genes_besides_do_not_matter(adata, fast):
    adata.var["highly_variable"] = np.arange(100) % 4 > 0
    sc_vaenb.tl.vae(adata, **fast)
    order = np.random.default_rng(0).permutation(100)
    shuffled = adata[:, order].copy()
    shuffled.var["highly_variable"] = False  # genes are matched by name, whatever the mask says now
    np.testing.assert_allclose(embedded(shuffled), adata.obsm["X_vae"], rtol=0, atol=1e-6)
    only = adata[:, order][:, adata.var["highly_variable"].to_numpy()[order]].copy()
    np.testing.assert_allclose(embedded(only), adata.obsm["X_vae"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", [lambda x: x.toarray(), sp.csc_matrix, sp.csr_array], ids=["dense", "csc", "csr"])
def test_storage_does_not_matter(fitted, kind):
    fitted.layers["counts"] = kind(fitted.layers["counts"].astype(np.int64))
    np.testing.assert_allclose(embedded(fitted, key_added="again"), fitted.obsm["X_vae"], rtol=0, atol=1e-6)


def test_it_works_on_views_and_backed_files(adata, fast, tmp_path, unchanged):
    sc_vaenb.tl.vae(adata, layer=None, **fast)
    with unchanged(adata):
        np.testing.assert_allclose(embedded(adata[100:]), adata.obsm["X_vae"][100:], rtol=0, atol=1e-5)
    adata.write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    np.testing.assert_allclose(embedded(backed, key_added="again"), adata.obsm["X_vae"], rtol=0, atol=1e-6)
    backed.file.close()


def test_the_size_factors_of_the_fit_are_used(adata, fast):
    adata.obs["sf"] = np.linspace(0.5, 2, 300)
    sc_vaenb.tl.vae(adata, size_factor="sf", **fast)
    np.testing.assert_allclose(embedded(adata, key_added="again"), adata.obsm["X_vae"], rtol=0, atol=1e-6)
    part = adata[:50].copy()  # their mean is another one
    np.testing.assert_allclose(embedded(part), adata.obsm["X_vae"][:50], rtol=0, atol=1e-5)
    part.obs["sf"] *= 2
    assert np.abs(embedded(part) - adata.obsm["X_vae"][:50]).max() > 1e-3
    del part.obs["sf"]
    with pytest.raises(KeyError, match=r"size_factor='sf' is not in adata\.obs"):
        embedded(part)


def test_cells_of_one_batch_or_a_single_cell_are_embedded(fitted):
    one = fitted[fitted.obs["batch"] == "batch_1"].copy()
    expected = one.obsm["X_vae"].copy()
    np.testing.assert_allclose(embedded(one), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(embedded(one[:1].copy()), expected[:1], rtol=0, atol=1e-5)


def test_batches_are_matched_by_name(fitted):
    fitted.obs["batch"] = fitted.obs["batch"].cat.reorder_categories(["batch_1", "batch_0"])
    np.testing.assert_allclose(embedded(fitted, key_added="again"), fitted.obsm["X_vae"], rtol=0, atol=1e-6)
    fitted.obs["batch"] = fitted.obs["batch"].astype(str).astype(object)
    np.testing.assert_allclose(embedded(fitted, key_added="again"), fitted.obsm["X_vae"], rtol=0, atol=1e-6)


def test_batches_need_not_be_there_for_an_encoder_that_does_not_know_them(adata, fast):
    sc_vaenb.tl.cvae(adata, "batch", encode_batch=False, align=False, **fast)
    del adata.obs["batch"]
    np.testing.assert_allclose(embedded(adata, key_added="again"), adata.obsm["X_vae"], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_fresh_process_gives_the_same_numbers(fitted, tmp_path):
    fitted.write_h5ad(tmp_path / "a.h5ad")
    code = (
        "import sys, numpy, anndata, sc_vaenb\n"
        "adata = anndata.read_h5ad(sys.argv[1])\n"
        "sc_vaenb.tl.embed(adata, key_added='again', device='cpu')\n"
        "numpy.save(sys.argv[2], adata.obsm['X_again'])\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "a.h5ad", tmp_path / "again.npy"], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "again.npy"), fitted.obsm["X_vae"], rtol=0, atol=1e-6)


def test_a_file_cannot_run_code(fitted):
    """The record is read as numbers and text alone: an object with code in it is never called."""

    class Bomb:
        def __reduce__(self):
            pytest.fail("unpickled")

        def __call__(self, *args):
            pytest.fail("called")

    fitted.uns["vae"]["model"]["extra"] = Bomb()
    np.testing.assert_allclose(embedded(fitted, key_added="again"), fitted.obsm["X_vae"], rtol=0, atol=1e-6)


# refusals


def test_an_unknown_key_lists_the_fitted_ones(fitted, refused):
    text = (
        r"uns\['cvae'\] holds no model fitted by sc_vaenb; uns has \['vae'\]\. Run sc_vaenb\.tl\.cvae or tl\.vae first"
    )
    with refused(fitted, KeyError, text):
        sc_vaenb.tl.embed(fitted, "cvae")
    with refused(fitted, KeyError, r"uns\['truth'\] holds no model .* uns has \['vae'\]"):
        sc_vaenb.tl.embed(fitted, "truth")
    del fitted.uns["vae"]
    with refused(fitted, KeyError, r"uns\['vae'\] holds no model fitted by sc_vaenb; uns has \[\]\. Run"):
        sc_vaenb.tl.embed(fitted)


def test_missing_genes_are_refused(fitted, refused):
    part = fitted[:, 2:].copy()
    text = r"2 of the 100 genes of the model in uns\['vae'\] are not in var_names \(first: 'gene_0'\)\. Use an"
    with refused(part, ValueError, text):
        sc_vaenb.tl.embed(part)


def test_a_newer_format_is_refused(fitted, refused):
    fitted.uns["vae"]["model"]["format"] = "sc_vaenb model 9"
    text = r"uns\['vae'\]\['model'\] has the format 'sc_vaenb model 9', this version reads 'sc_vaenb model 2'\. Fit"
    with refused(fitted, ValueError, text):
        sc_vaenb.tl.embed(fitted)


def test_unknown_batches_are_refused(fitted, refused):
    fitted.obs["batch"] = fitted.obs["batch"].cat.rename_categories({"batch_1": "new"})
    text = (
        r"obs\['batch'\] holds batches that the model was not fitted on: \['new'\]\. It knows \['batch_0', 'batch_1'\]"
    )
    with refused(fitted, ValueError, text):
        sc_vaenb.tl.embed(fitted)


def test_a_missing_batch_column_or_label_is_refused(fitted, refused):
    fitted.obs.loc["cell_4", "batch"] = np.nan
    with refused(fitted, ValueError, r"obs\['batch'\] is missing for 1 cells \(first: 'cell_4'\)"):
        sc_vaenb.tl.embed(fitted)
    del fitted.obs["batch"]
    with refused(fitted, KeyError, r"batch_key='batch' is not in adata\.obs"):
        sc_vaenb.tl.embed(fitted)


def test_counts_that_cannot_be_are_refused(fitted, refused):
    fitted.layers["counts"].data[0] = -1
    with refused(
        fitted, ValueError, r"layers\['counts'\] holds negative values \(cell 'cell_0', gene 'gene_\d+': -1\)"
    ):
        sc_vaenb.tl.embed(fitted)
    del fitted.layers["counts"]
    with refused(fitted, KeyError, r"layer='counts' is not in adata\.layers"):
        sc_vaenb.tl.embed(fitted)


@pytest.mark.parametrize("name", ["a/b", "", 3])
def test_keys_that_cannot_be_are_refused(fitted, refused, name):
    with refused(fitted, ValueError, r"key_added=.* is not possible\. Give a name without '/'"):
        sc_vaenb.tl.embed(fitted, key_added=name)


def test_no_anndata_is_refused(fitted, refused):
    with pytest.raises(TypeError, match="adata is a dict, not an AnnData"):
        sc_vaenb.tl.embed({})
    with refused(fitted, ValueError, "adata has 0 cells"):
        sc_vaenb.tl.embed(fitted[:0])


@pytest.mark.parametrize("part", ["shape", "missing", "config"])
def test_a_damaged_model_is_refused_in_words(fitted, refused, part):
    adata = fitted.copy()
    model = adata.uns["vae"]["model"]
    if part == "shape":
        model["weights"]["encoder.first.bias"] = np.zeros(3, np.float32)
    elif part == "missing":
        del model["weights"]["encoder.first.bias"]
    else:
        model["config"] = "{}"
    with refused(adata, ValueError, r"the model in uns\['vae'\] is damaged"):
        sc_vaenb.tl.embed(adata)
