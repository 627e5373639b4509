"""Genes and peaks of open chromatin in one embedding."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

import sc_vaenb
from sc_vaenb.data.counts import Counts
from sc_vaenb.metrics import knn
from sc_vaenb.tl._peaks import learn_peaks, read_peaks

FIT = {"n_latent": 8, "hidden": (32,), "layer": None, "mask_var": None}


def multiome(n=500, seed=0):
    """Two kinds that only genes tell apart, times two that only peaks do; the last fifty cells have no peaks."""
    rng = np.random.default_rng(seed)
    by_genes, by_peaks = rng.integers(2, size=(2, n))

    def drawn(kind, n_features, depth):
        rate = rng.gamma(1.0, size=n_features) * np.exp(rng.normal(0, 0.8, (2, n_features)))
        return rng.poisson(depth * (rate / rate.sum(1, keepdims=True))[kind])

    peaks = drawn(by_peaks, 300, 400)
    peaks[-50:] = 0
    adata = AnnData(sparse.csr_matrix(drawn(by_genes, 100, 300), dtype=np.float32))
    adata.obs["by_genes"], adata.obs["by_peaks"] = by_genes.astype(str), by_peaks.astype(str)
    adata.obs["batch"] = pd.Categorical(np.where(np.arange(n) % 2, "a", "b"))
    adata.obsm["peaks"] = sparse.csr_matrix(peaks)
    adata.uns["peak_names"] = np.array([f"chr1:{i}" for i in range(300)], dtype=object)
    return adata


def purity(embedding, label):
    label = label.to_numpy()
    return float((label[knn(embedding, 15).indices[:, 1:]] == label[:, None]).mean())


@pytest.fixture(scope="module")
def fitted():
    adata = multiome()
    sc_vaenb.tl.vae(adata, peaks_key="peaks", n_steps=250, **FIT)
    return adata


def test_the_embedding_knows_what_either_modality_shows(fitted):
    measured = fitted[:450]
    alone = multiome()
    sc_vaenb.tl.vae(alone, n_steps=250, **FIT)
    genes_alone = alone.obsm["X_vae"][:450]
    assert purity(genes_alone, measured.obs["by_peaks"]) < 0.6  # chance is 0.5
    assert purity(measured.obsm["X_vae"], measured.obs["by_peaks"]) > 0.9
    assert purity(measured.obsm["X_vae"], measured.obs["by_genes"]) > 0.9


def test_cells_without_peaks_are_embedded_by_their_genes(fitted):
    cells = fitted.obsm["X_vae"][450:]
    assert np.isfinite(cells).all()
    assert purity(cells, fitted.obs["by_genes"].iloc[450:]) > 0.8


def test_accessibility_is_that_of_the_kind(fitted):
    adata = fitted.copy()
    sc_vaenb.tl.accessibility(adata)
    found, peaks = adata.obsm["vae_accessibility"][:450], adata.obsm["peaks"].toarray()[:450]
    assert list(found.columns) == list(adata.uns["peak_names"])
    np.testing.assert_allclose(found.sum(1), 1e4, rtol=1e-3)
    kind = adata.obs["by_peaks"].to_numpy()[:450]
    observed = [1e4 * peaks[kind == k].sum(0) / peaks[kind == k].sum() for k in "01"]
    decoded = [found.to_numpy()[kind == k].mean(0) for k in "01"]
    change_observed, change_decoded = (np.log((a + 5) / (b + 5)) for a, b in (observed, decoded))
    assert np.corrcoef(change_observed, change_decoded)[0, 1] > 0.9
    sc_vaenb.tl.accessibility(adata, peaks=["chr1:7"], corrected=True)
    np.testing.assert_allclose(adata.obsm["vae_accessibility"]["chr1:7"][:450], found["chr1:7"], rtol=1e-4)


def test_a_stored_model_embeds_the_same(fitted, tmp_path):
    fitted.write_h5ad(tmp_path / "fitted.h5ad")
    import anndata

    again = anndata.read_h5ad(tmp_path / "fitted.h5ad")
    sc_vaenb.tl.embed(again)
    np.testing.assert_allclose(again.obsm["X_vae"], fitted.obsm["X_vae"], atol=1e-5)


def test_peaks_are_matched_by_name(fitted):
    adata = fitted[:450].copy()
    order = np.random.default_rng(0).permutation(300)
    adata.obsm["peaks"], adata.uns["peak_names"] = adata.obsm["peaks"][:, order], adata.uns["peak_names"][order]
    sc_vaenb.tl.embed(adata)
    np.testing.assert_allclose(adata.obsm["X_vae"], fitted.obsm["X_vae"][:450], atol=1e-5)


def test_new_cells_and_new_batches_are_mapped():
    adata = multiome()
    sc_vaenb.tl.cvae(adata, "batch", peaks_key="peaks", n_steps=100, **FIT)
    query = multiome(n=200, seed=0)
    query.obs["batch"] = "new"
    query.obs_names = "query_" + query.obs_names
    sc_vaenb.tl.map_query(query, adata)
    assert np.isfinite(query.obsm["X_vae"]).all()
    del query.obsm["peaks"]
    sc_vaenb.tl.embed(query)
    assert np.isfinite(query.obsm["X_vae"]).all()


def peaks_alone(adata):
    """The same cells, of which only open chromatin was measured."""
    adata = adata.copy()
    adata.X = sparse.csr_matrix(adata.shape, dtype=np.float32)
    return adata


def test_cells_with_peaks_alone_are_mapped_by_them():
    adata = multiome(900)[:850]
    is_query = np.arange(850) >= 600
    reference, query = adata[~is_query].copy(), peaks_alone(adata[is_query])
    query.obs["batch"] = "atac"
    sc_vaenb.tl.cvae(reference, "batch", peaks_key="peaks", n_steps=250, **FIT)
    sc_vaenb.tl.map_query(query, reference, label_key="by_peaks")
    right = query.obs["by_peaks_predicted"].astype(str) == query.obs["by_peaks"]
    assert right.mean() > 0.9
    assert abs(query.obs["by_peaks_confidence"].mean() - right.mean()) < 0.1
    before = query.obsm["X_vae"].copy()
    sc_vaenb.tl.embed(query)
    np.testing.assert_allclose(query.obsm["X_vae"], before, atol=1e-5)
    sc_vaenb.tl.accessibility(query, peaks=["chr1:7"])
    sc_vaenb.tl.normalized(query, genes=["0", "1"])
    assert np.isfinite(query.obsm["normalized"].to_numpy()).all()


@pytest.mark.parametrize("missing", ["genes", "peaks"])
def test_confidence_is_that_of_what_was_measured(missing):
    """Genes say nothing about the kinds of peaks, and the other way round."""
    label = f"by_{missing}"
    adata = multiome(900)[:850]
    is_query = np.arange(850) >= 600
    reference, query = adata[~is_query].copy(), adata[is_query].copy()
    sc_vaenb.tl.vae(reference, peaks_key="peaks", n_steps=250, **FIT)
    if missing == "genes":
        query = peaks_alone(query)
    else:
        del query.obsm["peaks"]
    sc_vaenb.tl.map_query(query, reference, label_key=label)
    right = (query.obs[f"{label}_predicted"].astype(str) == query.obs[label]).mean()
    assert 0.35 < right < 0.65  # chance
    assert query.obs[f"{label}_confidence"].mean() < 0.85  # with all counts, it is above 0.95


def test_cells_with_peaks_alone_are_read_from_disk(fitted, tmp_path):
    import anndata

    query = peaks_alone(fitted[:450])
    query.write_h5ad(tmp_path / "query.h5ad")
    sc_vaenb.tl.embed(query)
    backed = anndata.read_h5ad(tmp_path / "query.h5ad", backed="r")
    sc_vaenb.tl.embed(backed)
    np.testing.assert_allclose(backed.obsm["X_vae"], query.obsm["X_vae"], atol=1e-5)
    assert purity(query.obsm["X_vae"], query.obs["by_peaks"]) > 0.9


def test_cells_with_peaks_alone_are_refused_where_genes_are_needed(fitted):
    cells = peaks_alone(fitted[:450])
    with pytest.raises(ValueError, match=r"mapped on the fitted model, by sc_vaenb\.tl\.map_query"):
        sc_vaenb.tl.vae(cells, peaks_key="peaks", **FIT)
    with pytest.raises(ValueError, match=r"have no counts in the \d+ genes used"):
        sc_vaenb.tl.posterior_check(cells)
    mixed = fitted[:450].copy()
    mixed.X = sparse.vstack([cells.X[:10], mixed.X[10:]], format="csr")
    with pytest.raises(ValueError, match="10 of 450 cells have no counts in the genes of the model"):
        sc_vaenb.tl.map_query(mixed, fitted)
    sc_vaenb.tl.embed(mixed)
    np.testing.assert_allclose(mixed.obsm["X_vae"][10:], fitted.obsm["X_vae"][10:450], atol=1e-5)
    nothing = fitted.copy()  # the last fifty cells have no peaks
    nothing.X = sparse.vstack([nothing.X[:490], cells.X[:10]], format="csr")
    with pytest.raises(ValueError, match="10 cells have no counts"):
        sc_vaenb.tl.embed(nothing)


@pytest.mark.parametrize("kind", ["csr", "csc", "dense", "frame", "open"])
def test_tables_of_any_kind_are_read(kind):
    adata = multiome()
    expected = adata.obsm["peaks"].toarray()
    table = {
        "csr": adata.obsm["peaks"],
        "csc": adata.obsm["peaks"].tocsc(),
        "dense": expected,
        "open": adata.obsm["peaks"] > 0,  # which peaks are open
        "frame": pd.DataFrame(expected, index=adata.obs_names, columns=adata.uns["peak_names"]),
    }[kind]
    adata.obsm["peaks"] = table
    names, counts = learn_peaks(adata, "peaks", False)
    np.testing.assert_array_equal(counts.toarray(), expected > 0 if kind == "open" else expected)
    assert names == list(adata.uns["peak_names"])


def test_peaks_without_counts_are_left_out():
    adata = multiome()
    table = adata.obsm["peaks"].toarray()
    table[:, 3] = 0
    adata.obsm["peaks"] = table
    names, counts = learn_peaks(adata, "peaks", False)
    assert "chr1:3" not in names
    assert counts.shape[1] == len(names) == 299


def test_a_peak_that_new_cells_lack_has_no_counts():
    adata = multiome()
    names = ["chr1:5", "not there", "chr1:0"]
    counts = read_peaks(adata, "peaks", names, False).toarray()
    np.testing.assert_array_equal(counts[:, [0, 2]], adata.obsm["peaks"].toarray()[:, [5, 0]])
    assert not counts[:, 1].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda adata: adata.obsm.pop("peaks"), "peaks_key='peaks' is not in adata.obsm"),
        (lambda adata: adata.uns.update(peak_names=["a"]), "holds 1 names, but"),
        (lambda adata: adata.uns.update(peak_names=["a"] * 300), "1 of them different"),
        (lambda adata: adata.obsm.update(peaks=adata.obsm["peaks"] * 0.3), "non-integer values"),
        (lambda adata: adata.obsm.update(peaks=-adata.obsm["peaks"]), "negative values"),
        (lambda adata: adata.obsm.update(peaks=adata.obsm["peaks"] * 0), "no count above 0"),
    ],
)
def test_unusable_tables_are_refused(change, message):
    adata = multiome()
    change(adata)
    before = set(adata.obsm), set(adata.uns)
    with pytest.raises((KeyError, ValueError), match=message):
        sc_vaenb.tl.vae(adata, peaks_key="peaks", **FIT)
    assert (set(adata.obsm), set(adata.uns)) == before


def test_cells_of_other_peaks_are_refused(fitted):
    adata = fitted.copy()
    adata.uns["peak_names"] = np.array([f"other_{i}" for i in range(300)], dtype=object)
    with pytest.raises(ValueError, match="none of the 300 peaks of the model"):
        sc_vaenb.tl.embed(adata)


def test_accessibility_needs_a_model_with_peaks(fitted):
    with pytest.raises(KeyError, match=r"does not have 'no'\. It has 300 peaks, such as 'chr1:0'"):
        sc_vaenb.tl.accessibility(fitted, peaks=["no"])
    adata = multiome()
    sc_vaenb.tl.vae(adata, n_steps=5, **FIT)
    with pytest.raises(ValueError, match="knows no peaks"):
        sc_vaenb.tl.accessibility(adata)


def test_the_fingerprint_tells_in_which_cell_a_count_is():
    adata = multiome()
    counts = sparse.csr_matrix(adata.X, dtype=np.float32)
    peaks = sparse.csr_matrix(([1.0], [0], np.r_[0, np.ones(500, int)]), (500, 300), dtype=np.float32)
    moved = sparse.csr_matrix(([1.0], [0], np.r_[0, 0, np.ones(499, int)]), (500, 300), dtype=np.float32)
    size_factor, batch = np.ones(500, np.float32), np.zeros(500, np.int64)
    first, second = (Counts(counts, size_factor, batch, peaks=values).fingerprint() for values in (peaks, moved))
    assert first.pop("peaks") != second.pop("peaks")
    assert first == second
