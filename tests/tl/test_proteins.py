"""`protein_key`: counts of proteins beside those of genes, from where they are read to what the model makes of them."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse as sp
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

import sc_vaenb

NAMES = ["type_0", "type_1", "type_2", "half", "half_too", "other_half"]


def measure(adata, rng=0):
    """Counts of proteins: of each type, of one half of type_0 (two) and of the other, which no gene tells apart."""
    rng = np.random.default_rng(rng)
    types = adata.obs["cell_type"].astype(str).to_numpy()
    half = (types == "type_0") & (rng.random(adata.n_obs) < 0.5)
    of_type = [types == name for name in NAMES[:3]]
    positive = np.column_stack([*of_type, half, half, of_type[0] & ~half])
    depth = np.where(adata.obs["batch"] == "batch_0", 1.0, 3.0)[:, None]
    mean = depth * np.where(positive, 100.0, 6.0)
    counts = rng.poisson(mean * rng.gamma(4, 1 / 4, mean.shape))
    return pd.DataFrame(counts, index=adata.obs_names, columns=NAMES), positive


@pytest.fixture(scope="session")
def _with_proteins(simulated):
    adata = simulated.copy()
    adata.obsm["protein"], positive = measure(adata)
    adata.obs["half"] = np.where(positive[:, 3], "with", "without")
    options = {"n_latent": 6, "hidden": (32,), "n_steps": 150, "device": "cpu"}
    sc_vaenb.tl.cvae(adata, "batch", protein_key="protein", **options)
    sc_vaenb.tl.cvae(adata, "batch", key_added="genes", **options)
    return adata


@pytest.fixture
def with_proteins(_with_proteins):
    return _with_proteins.copy()


@pytest.mark.slow
def test_the_embedding_tells_apart_what_only_proteins_do(with_proteins):
    own = with_proteins[with_proteins.obs["cell_type"] == "type_0"]
    label = own.obs["half"].to_numpy(str)

    def right(key):
        return KNeighborsClassifier(15).fit(own.obsm[key], label).score(own.obsm[key], label)

    assert right("X_vae") > 0.8
    assert right("X_vae") > right("X_genes") + 0.1


def test_the_foreground_is_found_and_the_background_taken_out(with_proteins):
    sc_vaenb.tl.denoised_protein(with_proteins, device="cpu")
    positive = measure(with_proteins)[1]
    found, probability = with_proteins.obsm["vae_protein"], with_proteins.obsm["vae_protein_foreground"]
    assert list(found.columns) == list(probability.columns) == NAMES
    deep = (with_proteins.obs["batch"] == "batch_1").to_numpy()
    for i, name in enumerate(NAMES):
        assert roc_auc_score(positive[:, i], probability[name]) > 0.9
        assert roc_auc_score(positive[:, i], found[name]) > 0.9
    for i, name in enumerate(NAMES[:3]):
        assert found[name][positive[:, i] & deep].mean() == pytest.approx(3 * 94, rel=0.3)
        assert found[name][~positive[:, i] & deep].mean() < 18  # the background's 3 * 6
    assert ((probability >= 0) & (probability <= 1)).all(axis=None)


def test_history_and_record_know_proteins(with_proteins):
    record = with_proteins.uns["vae"]
    assert record["params"]["protein_key"] == "protein"
    history = record["history"]
    assert history["train_protein"][-1] < history["train_protein"][0]
    parts = history["validation_reconstruction"] + 0.5 * history["validation_kl"] + history["validation_protein"]
    np.testing.assert_allclose(history["validation_loss"], parts, rtol=1e-5)
    assert "train_protein" not in with_proteins.uns["genes"]["history"]
    assert "protein_key" not in with_proteins.uns["genes"]["params"]


@pytest.mark.slow
def test_the_same_counts_in_any_form_give_the_same(adata, fast):
    table, _ = measure(adata)
    adata.obsm["protein"] = table
    sc_vaenb.tl.cvae(adata, "batch", protein_key="protein", **fast)
    expected = adata.obsm["X_vae"].copy()
    adata.uns["protein_names"] = np.array(NAMES, dtype=object)
    for kind in (table.to_numpy(np.float32), sp.csr_matrix(table.to_numpy()), table.astype("Int64")):
        adata.obsm["protein"] = kind
        sc_vaenb.tl.cvae(adata, "batch", protein_key="protein", **fast)
        np.testing.assert_array_equal(adata.obsm["X_vae"], expected)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["vae", "cvae"])
def test_zeros_in_all_of_a_batch_and_gaps_are_the_same_and_other_zeros_are_not(adata, fast, log, method):
    table, _ = measure(adata)
    table = table.astype(float)
    one = (adata.obs["batch"] == "batch_1").to_numpy()

    def fitted(value):
        adata.obsm["protein"] = table.mask(np.outer(one, table.columns.isin(["half"])), value)
        args = ("batch",) if method == "cvae" else ()
        getattr(sc_vaenb.tl, method)(adata, *args, protein_key="protein", **fast)
        return adata.obsm["X_vae"].copy()

    gaps, zeros = fitted(np.nan), fitted(0.0)
    if method == "cvae":
        assert (
            "batch 'batch_1' has no counts of 1 of 6 proteins (first: 'half'): they are taken as not" in log.getvalue()
        )
        np.testing.assert_array_equal(gaps, zeros)
    else:  # which knows no batches: these are zeros as any other
        assert np.abs(gaps - zeros).max() > 1e-3


def test_a_protein_without_counts_is_left_out(adata, fast, log):
    adata.obsm["protein"] = measure(adata)[0].assign(none=0, gaps=np.nan)
    sc_vaenb.tl.cvae(adata, "batch", protein_key="protein", **fast)
    assert "2 of 8 proteins have no counts in these cells (first: 'none')" in log.getvalue()
    sc_vaenb.tl.denoised_protein(adata, device="cpu")
    assert list(adata.obsm["vae_protein"].columns) == NAMES


def spoiled(what):
    def spoil(adata):
        table = adata.obsm["protein"].astype(float)
        if what == "text":
            table = table.astype(object)
            table.iloc[3, 1] = "many"
        elif what == "twice":
            table, adata.uns["protein_names"] = table.to_numpy(), np.array(list("aabcde"), dtype=object)
        elif what == "names":
            table, adata.uns["protein_names"] = table.to_numpy(), np.array(["a", "b"], dtype=object)
        elif what == "shape":
            table = table.to_numpy()[:, :, None]
        elif what is None:
            table[:] = 0.0
        else:
            table.iloc[3, 1] = what
        adata.obsm["protein"] = table

    return spoil


@pytest.mark.parametrize(
    ("key", "spoil", "error", "text"),
    [
        ("adt", lambda adata: None, KeyError, r"protein_key='adt' is not in adata.obsm, which holds \['protein'\]"),
        (3, lambda adata: None, TypeError, "protein_key=3 is not possible. Give the name of a table in obsm"),
        ("protein", spoiled(-1), ValueError, "holds negative values .*, protein 'type_1': -1.*Give the raw counts"),
        ("protein", spoiled(0.5), ValueError, "holds non-integer values .*'type_1': 0.5.*or allow_non_integer=True"),
        ("protein", spoiled(np.inf), ValueError, "holds values that are not finite .*'type_1': inf"),
        ("protein", spoiled("text"), ValueError, "is not a table of numbers .*Give the raw counts of proteins"),
        ("protein", spoiled("twice"), ValueError, "hold 6 names of proteins, 5 of them different. Give each its own"),
        ("protein", spoiled("names"), ValueError, "holds 2 names, but obsm\\['protein'\\] has 6 columns"),
        ("protein", spoiled("shape"), ValueError, r"has the shape \(300, 6, 1\). Give counts of proteins"),
        ("protein", spoiled(None), ValueError, "holds no count above 0 of any of its 6 proteins: none was measured"),
    ],
)
def test_what_cannot_be_is_refused(adata, fast, refused, key, spoil, error, text):
    adata.obsm["protein"] = measure(adata)[0]
    spoil(adata)
    with refused(adata, error, text):
        sc_vaenb.tl.cvae(adata, "batch", protein_key=key, **fast)


def test_fractions_are_taken_on_request(adata, fast):
    adata.obsm["protein"] = measure(adata)[0] * 0.5
    sc_vaenb.tl.cvae(adata, "batch", protein_key="protein", allow_non_integer=True, **fast)
    assert np.isfinite(adata.obsm["X_vae"]).all()


def test_a_file_gives_the_same_embedding_and_proteins(with_proteins, tmp_path):
    sc_vaenb.tl.denoised_protein(with_proteins, device="cpu")
    with_proteins.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    kept = {name: again.obsm.pop(name) for name in ("X_vae", "vae_protein", "vae_protein_foreground")}
    sc_vaenb.tl.embed(again, device="cpu")
    sc_vaenb.tl.denoised_protein(again, device="cpu")
    np.testing.assert_allclose(again.obsm["X_vae"], kept["X_vae"], rtol=0, atol=1e-5)
    for name in ("vae_protein", "vae_protein_foreground"):
        pd.testing.assert_frame_equal(again.obsm[name], kept[name], rtol=1e-4)


def test_proteins_are_matched_by_name_and_those_of_some_cells_stay_what_they_are(with_proteins):
    part = with_proteins[5:9].copy()
    part.obsm["protein"] = part.obsm["protein"][NAMES[::-1]].assign(another=3)
    part.obsm["protein"].iloc[:, 0] = 0  # measured in the fit, so these are zeros
    with_proteins.obsm["protein"].iloc[5:9, 5] = 0
    for adata in (part, with_proteins):
        sc_vaenb.tl.embed(adata, key_added="again", device="cpu")
    np.testing.assert_allclose(part.obsm["X_again"], with_proteins.obsm["X_again"][5:9], rtol=0, atol=1e-5)


def test_cells_without_proteins_are_embedded_too_and_it_is_said(with_proteins, log, refused):
    table = with_proteins.obsm.pop("protein")
    sc_vaenb.tl.embed(with_proteins, key_added="none", device="cpu")
    assert "adata.obsm has no 'protein': these cells are taken to have no protein measured" in log.getvalue()
    with_proteins.obsm["protein"] = table * np.nan
    sc_vaenb.tl.embed(with_proteins, key_added="gaps", device="cpu")
    np.testing.assert_array_equal(with_proteins.obsm["X_none"], with_proteins.obsm["X_gaps"])
    with_proteins.obsm["protein"] = table.set_axis(list("abcdef"), axis=1)
    text = r"holds none of the 6 proteins of the model \(first: 'type_0'\), but 'a', 'b', 'c', \.\.\.\. Name them"
    with refused(with_proteins, ValueError, text):
        sc_vaenb.tl.embed(with_proteins, device="cpu")


@pytest.mark.parametrize(
    "use",
    [
        lambda adata: sc_vaenb.tl.normalized(adata, device="cpu"),
        lambda adata: sc_vaenb.tl.corrected(adata, device="cpu"),
        lambda adata: sc_vaenb.tl.sample(adata, 10, device="cpu"),
        lambda adata: sc_vaenb.tl.interpolate(adata, "type_0", "type_1", groupby="cell_type", device="cpu"),
        lambda adata: sc_vaenb.tl.posterior_check(adata, n_samples=10, device="cpu"),
        lambda adata: sc_vaenb.tl.differential(adata, "cell_type", device="cpu"),
        lambda adata: sc_vaenb.tl.factors(adata, device="cpu"),
        lambda adata: sc_vaenb.tl.importance(adata, groupby="cell_type", max_cells=20, device="cpu"),
    ],
    ids=lambda use: use.__code__.co_names[2],
)
def test_what_is_done_with_a_model_of_genes_can_be_done_with_one_of_both(with_proteins, use):
    use(with_proteins)


@pytest.fixture(scope="session")
def mapped():
    both = sc_vaenb.datasets.simulate(500, 100, n_types=3, n_batches=3, mean_depth=500, rng=1)
    both.layers["counts"] = both.X.copy()
    both.obsm["protein"], _ = measure(both)
    new = (both.obs["batch"] == "batch_2").to_numpy()
    reference = both[~new].copy()
    sc_vaenb.tl.cvae(reference, "batch", protein_key="protein", n_latent=6, hidden=(32,), n_steps=150, device="cpu")
    return reference, both[new].copy()


@pytest.mark.slow
@pytest.mark.parametrize("proteins", [True, False])
def test_cells_with_and_without_proteins_are_mapped_on_a_reference_with_both(mapped, proteins):
    reference, query = mapped[0], mapped[1].copy()
    truth, table = query.obs["cell_type"].to_numpy(str), query.obsm["protein"]
    if not proteins:
        del query.obsm["protein"]
    sc_vaenb.tl.map_query(query, reference, label_key="cell_type", n_steps=60, device="cpu")
    assert (query.obs["cell_type_predicted"].to_numpy(str) == truth).mean() > 0.9
    sc_vaenb.tl.embed(query, key_added="again", device="cpu")
    np.testing.assert_allclose(query.obsm["X_again"], query.obsm["X_vae"], rtol=0, atol=1e-5)
    sc_vaenb.tl.denoised_protein(query, device="cpu")
    found = query.obsm["vae_protein"]
    for name in NAMES[:3]:
        assert roc_auc_score(truth == name, found[name]) > 0.9
        assert np.corrcoef(np.log1p(found[name]), np.log1p(table[name]))[0, 1] > 0.6


def test_an_exported_model_takes_its_proteins_along(with_proteins, tmp_path):
    sc_vaenb.tl.export_model(with_proteins, tmp_path / "m.safetensors")
    sc_vaenb.tl.import_model(with_proteins, tmp_path / "m.safetensors", key_added="got")
    sc_vaenb.tl.embed(with_proteins, "got", device="cpu")
    np.testing.assert_allclose(with_proteins.obsm["X_got"], with_proteins.obsm["X_vae"], rtol=0, atol=1e-5)
