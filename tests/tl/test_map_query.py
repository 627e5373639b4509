"""`tl.map_query`: new cells land in the space of a reference, whose labels they get."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import torch

import sc_vaenb
from sc_vaenb._record import FittedModel
from sc_vaenb._results import check_result
from sc_vaenb.inference.map_query import of_genes
from sc_vaenb.tl._counts import read_counts

FEW = {"n_steps": 20, "device": "cpu"}


def mapped(query, reference, *args, **options):
    return sc_vaenb.tl.map_query(query, reference, *args, copy=True, **FEW | options)


@pytest.fixture(scope="session")
def _three():
    """Three batches, of which the last is left to be mapped: (query, reference)."""
    adata = sc_vaenb.datasets.simulate(450, 100, n_types=3, n_batches=3, mean_depth=500, rng=0)
    adata.layers["counts"] = adata.X.copy()
    new = (adata.obs["batch"] == "batch_2").to_numpy()
    reference, query = adata[~new].copy(), adata[new].copy()
    sc_vaenb.tl.cvae(reference, "batch", n_latent=6, hidden=(32,), n_steps=150, device="cpu")
    return query, reference


@pytest.fixture
def three(_three):
    return tuple(part.copy() for part in _three)


def test_cells_of_the_reference_land_where_they_are(fitted, unchanged):
    part = fitted[np.random.default_rng(0).permutation(300)[:100]].copy()[:, ::-1].copy()
    expected = part.obsm.pop("X_vae")
    del part.uns["vae"]
    with unchanged(fitted), unchanged(part):
        result = mapped(part, fitted)
    np.testing.assert_allclose(result.obsm["X_vae"], expected, rtol=0, atol=1e-5)
    assert (result.obs["novelty"] < 2).all()
    assert list(result.uns["vae"]["query"]["new_batches"]) == []


@pytest.mark.slow
def test_a_new_batch_lands_on_its_types(three, unchanged):
    query, reference = three
    state = torch.get_rng_state()
    with unchanged(reference):
        assert sc_vaenb.tl.map_query(query, reference, label_key="cell_type", **FEW) is None
    assert torch.equal(torch.get_rng_state(), state)
    predicted = query.obs["cell_type_predicted"]
    assert list(predicted.cat.categories) == list(reference.obs["cell_type"].cat.categories)
    assert (predicted.astype(str) == query.obs["cell_type"].astype(str)).mean() > 0.95
    assert query.obs["cell_type_uncertainty"].between(0, 1).all()
    assert 0.5 < np.median(query.obs["novelty"]) < 1.5
    record = query.uns["vae"]
    assert list(record["model"]["batches"]) == ["batch_0", "batch_1", "batch_2"]
    assert list(record["query"]["new_batches"]) == ["batch_2"]
    assert record["query"]["n_reference"] == reference.n_obs
    assert list(record["overlap"]["batches"]) == ["batch_0", "batch_1", "batch_2"]
    assert record["overlap"]["group"].tolist() == [0, 0, 0]
    sc_vaenb.tl.corrected(query, batch="batch_0", device="cpu")  # as if the new cells came from a known batch
    assert np.isfinite(query.layers["corrected"]).all()


def test_only_the_new_batch_is_fitted(three):
    query, reference = three
    before, after = (
        FittedModel.from_uns(reference, "vae").model,
        FittedModel.from_uns(mapped(query, reference), "vae").model,
    )
    grown = {"batch_embedding.code", "batch_embedding.embedding.weight"}
    for name, old in before.state_dict().items():
        new = after.state_dict()[name]
        if name in grown:
            new = new[: len(old)]
        elif name in {"alignment.log_weight", "alignment.shift"}:
            new = new[:, : old.shape[1]]
        assert torch.equal(new, old), name
    vectors = after.batch_embedding.embedding.weight
    assert (vectors[2] - vectors[:2].mean(0)).abs().max() > 0.01
    assert after.alignment.shift[:, 2].abs().max() > 0


@pytest.mark.slow
def test_the_written_model_embeds_both(three, tmp_path):
    query, reference = three
    result = mapped(query, reference)
    result.write_h5ad(tmp_path / "query.h5ad")
    again = ad.read_h5ad(tmp_path / "query.h5ad")
    sc_vaenb.tl.embed(again, key_added="again", device="cpu")
    np.testing.assert_allclose(again.obsm["X_again"], result.obsm["X_vae"], rtol=0, atol=1e-5)
    expected = reference.obsm["X_vae"].copy()
    reference.uns["vae"] = again.uns["vae"]
    sc_vaenb.tl.embed(reference, device="cpu")
    np.testing.assert_allclose(reference.obsm["X_vae"], expected, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_known_and_new_batches_come_together(three):
    query, reference = three
    both = ad.concat([reference, query], merge="same")
    both.obs["sample"] = both.obs.pop("batch").astype(str)
    result = mapped(both, reference, batch_key="sample", label_key="cell_type")
    n = reference.n_obs
    np.testing.assert_allclose(result.obsm["X_vae"][:n], reference.obsm["X_vae"], rtol=0, atol=1e-5)
    alone = mapped(query, reference, label_key="cell_type")
    np.testing.assert_allclose(result.obsm["X_vae"][n:], alone.obsm["X_vae"], rtol=0, atol=1e-4)
    assert result.uns["vae"]["params"]["batch_key"] == "sample"


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"condition": "onehot"},
        {"prior": "conditional", "dispersion": "gene-batch", "align": False},
        {"prior": "mog", "n_components": 5},
        {"prior": "vamp", "n_components": 5},
        {"encode_batch": False, "likelihood": "zinb"},
        {"norm": "batch", "size_factor_as": "covariate", "link": "exp"},
    ],
    ids=["onehot", "per-batch", "mog", "vamp", "zinb", "covariate"],
)
def test_models_of_every_kind_take_new_batches_and_lack_genes(three, fast, options):
    query, reference = three
    sc_vaenb.tl.cvae(reference, "batch", **fast | options)
    n = reference.n_obs
    both = ad.concat([reference, query], merge="same")
    result = mapped(both, reference)
    np.testing.assert_allclose(result.obsm["X_vae"][:n], reference.obsm["X_vae"], rtol=0, atol=1e-5)
    result = mapped(query[:, 10:].copy(), reference)
    expected = result.obsm["X_vae"].copy()
    sc_vaenb.tl.embed(result, device="cpu")
    np.testing.assert_allclose(result.obsm["X_vae"], expected, rtol=0, atol=1e-5)


def test_a_model_without_batches_needs_none(adata, fast):
    sc_vaenb.tl.vae(adata, **fast)
    query = adata[:50].copy()
    del query.obs["batch"], query.uns["vae"]
    result = mapped(query, adata)
    np.testing.assert_allclose(result.obsm["X_vae"], adata.obsm["X_vae"][:50], rtol=0, atol=1e-5)


@pytest.mark.slow
def test_missing_genes_count_as_their_mean(three, log):
    query, reference = three
    part = query[:, np.random.default_rng(0).permutation(100)[:70]].copy()
    result = mapped(part, reference, label_key="cell_type")
    assert (result.obs["cell_type_predicted"].astype(str) == query.obs["cell_type"].astype(str)).mean() > 0.9
    found = result.uns["vae"]["query"]
    assert set(found["missing_genes"]) == set(query.var_names) - set(part.var_names)
    assert set(result.uns["vae"]["model"]["genes"]) == set(part.var_names)
    assert "with 70 of the 100 genes of uns['vae']; new batches: batch_2" in log.getvalue()


def test_the_model_of_some_genes_takes_the_mean_for_the_others(three):
    reference = three[1]
    stored = FittedModel.from_uns(reference, "vae")
    counts, kept = read_counts(reference, "vae", stored), np.arange(0, 100, 2)
    model, share = of_genes(stored.model, kept, counts)
    total = np.ravel(counts.matrix.sum(0))
    assert share == pytest.approx(total[kept].sum() / total.sum())
    batch = counts.minibatch(np.arange(50), torch.device("cpu"))
    logged = counts.minibatch(np.arange(len(counts)), torch.device("cpu"))
    filled = logged.dense(logged.log_normalised()).mean(0).repeat(50, 1)
    seen = batch.dense(batch.log_normalised())
    filled[:, kept] = seen[:, kept]
    with torch.inference_mode():
        side = [stored.model.batch_embedding(batch.batch_index)]
        expected = stored.model.encoder(filled, side)
        found = model.encoder(seen[:, kept], side)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
        z = expected[:, :6]
        all_genes = stored.model.log_mean(z, batch.size_factor, batch.batch_index).exp()[:, kept]
        some = model.log_mean(z, batch.size_factor, batch.batch_index).exp()
    torch.testing.assert_close(some / some.sum(1, True), all_genes / all_genes.sum(1, True))
    torch.testing.assert_close(some.sum(1), batch.size_factor * stored.model.depth * share)


@pytest.mark.slow
def test_a_type_that_the_reference_lacks_is_novel(three):
    query, reference = three
    reference = reference[reference.obs["cell_type"] != "type_1"].copy()
    sc_vaenb.tl.cvae(reference, "batch", n_latent=6, hidden=(32,), n_steps=100, device="cpu")
    novelty, other = mapped(query, reference).obs["novelty"], query.obs["cell_type"] != "type_1"
    assert novelty[~other].median() > novelty[other].quantile(0.75)


@pytest.mark.slow
def test_cells_without_a_label_have_no_vote(three):
    query, reference = three
    reference.obs["cell_type"] = reference.obs["cell_type"].where(reference.obs["cell_type"] == "type_0")
    result = mapped(query, reference, label_key="cell_type")
    assert set(result.obs["cell_type_predicted"]) == {"type_0"}
    assert (result.obs["cell_type_uncertainty"] == 0).all()


@pytest.mark.slow
def test_the_embedding_of_the_reference_is_computed_where_it_is_not(three, unchanged):
    query, reference = three
    expected = mapped(query, reference)
    del reference.obsm["X_vae"]
    with unchanged(reference):
        found = mapped(query, reference)
    np.testing.assert_allclose(found.obs["novelty"], expected.obs["novelty"], rtol=1e-3)


@pytest.mark.slow
def test_counts_are_found_in_the_layer_of_the_fit_or_in_x(three):
    query, reference = three
    expected = mapped(query, reference).obsm["X_vae"]
    query.X = query.X * 0.5
    np.testing.assert_array_equal(mapped(query, reference).obsm["X_vae"], expected)
    query.layers["umi"] = query.layers.pop("counts")
    np.testing.assert_array_equal(mapped(query, reference, layer="umi").obsm["X_vae"], expected)
    query.X = query.layers.pop("umi")
    result = mapped(query, reference)
    np.testing.assert_array_equal(result.obsm["X_vae"], expected)
    assert "layer" not in result.uns["vae"]["params"]


# refusals


def test_too_few_genes_are_refused(three, refused):
    query, reference = three
    query.var_names = [f"other_{i}" if i < 60 else name for i, name in enumerate(query.var_names)]
    text = r"Only 40 of the 100 genes of the model in uns\['vae'\] are in var_names \(first missing: 'gene_0'\)"
    with refused(query, ValueError, text):
        sc_vaenb.tl.map_query(query, reference)


def test_what_is_wrong_with_the_reference_is_said_of_it(three, refused):
    query, reference = three
    with refused(query, TypeError, "reference is a dict, not an AnnData"):
        sc_vaenb.tl.map_query(query, {})
    with refused(query, KeyError, r"reference: uns\['other'\] holds no model fitted .* uns has \['vae'\]"):
        sc_vaenb.tl.map_query(query, reference, "other")
    with refused(query, KeyError, r"reference: label_key='kind' is not in adata\.obs"):
        sc_vaenb.tl.map_query(query, reference, label_key="kind")
    reference.obs["kind"] = pd.Series(np.nan, index=reference.obs_names, dtype=object)
    with refused(query, ValueError, r"reference: obs\['kind'\] holds no label\. Choose"):
        sc_vaenb.tl.map_query(query, reference, label_key="kind")
    reference.obsm["X_vae"] = reference.obsm["X_vae"][:, :2]
    text = r"reference: obsm\['X_vae'\] has 2 dimensions, the model in uns\['vae'\] 6\. Run sc_vaenb\.tl\.embed"
    with refused(query, ValueError, text):
        sc_vaenb.tl.map_query(query, reference)
    reference.uns["vae"]["model"]["config"] = "{}"
    with refused(query, ValueError, r"reference: the model in uns\['vae'\] is damaged"):
        sc_vaenb.tl.map_query(query, reference)


def test_a_reference_of_one_cell_is_refused(three, refused):
    query, reference = three
    with refused(query, ValueError, "reference has one cell: .* needs two"):
        sc_vaenb.tl.map_query(query, reference[:1].copy())


def test_what_is_wrong_with_the_new_cells_is_said(three, refused):
    query, reference = three
    with refused(query, KeyError, r"batch_key='sample' is not in adata\.obs"):
        sc_vaenb.tl.map_query(query, reference, batch_key="sample")
    with refused(query, KeyError, r"layer='umi' is not in adata\.layers"):
        sc_vaenb.tl.map_query(query, reference, layer="umi")
    for name in ("n_neighbors", "n_steps"):
        with refused(query, ValueError, f"{name}=0 is not possible. Give a whole number at least 1"):
            sc_vaenb.tl.map_query(query, reference, **{name: 0})
    query.layers["counts"].data[0] = 0.5
    with refused(query, ValueError, r"layers\['counts'\] holds non-integer values"):
        sc_vaenb.tl.map_query(query, reference)
    with pytest.raises(TypeError, match="adata is a dict, not an AnnData"):
        sc_vaenb.tl.map_query({}, reference)


# what is said of labels and of what is new


@pytest.mark.slow
def test_what_is_said_of_labels_and_novelty_survives_a_file(three, tmp_path, log):
    query, reference = three
    result = mapped(query, reference, label_key="cell_type")
    result.write_h5ad(tmp_path / "query.h5ad")
    again = ad.read_h5ad(tmp_path / "query.h5ad")
    said = check_result(again.uns["vae_transfer"], "vae_transfer", "transfer", "labels", "query", "verdict")
    assert said["verdict"] in log.getvalue()
    assert list(said["labels"].index) == ["type_0", "type_1", "type_2"]
    assert said["query"]["n_cells"].sum() == query.n_obs
    right = (again.obs["cell_type_predicted"].astype(str) == again.obs["cell_type"].astype(str)).mean()
    assert again.obs["cell_type_confidence"].mean() == pytest.approx(right, abs=0.05)
    assert (again.obs["novelty_p"] < 0.05).mean() < 0.15
    assert not again.obs["novel"].any()
    assert "No type that the reference lacks was noticed in batch_2" in said["verdict"]


@pytest.mark.slow
def test_with_two_types_it_is_said_that_new_ones_cannot_be_told(three):
    query, reference = three
    reference = reference[reference.obs["cell_type"] != "type_1"].copy()
    said = mapped(query, reference, label_key="cell_type").uns["vae_transfer"]
    assert "Whether types are new cannot be told in batch_2: fewer than 3 types were found there" in said["verdict"]
    assert not said["query"]["new"].any()


@pytest.mark.slow
def test_a_reference_without_counts_is_judged_in_the_latent_space(three, log):
    query, reference = three
    reference.layers["counts"] = reference.layers["counts"] * 0.5
    result = mapped(query, reference, label_key="cell_type")
    assert "the counts of the reference cannot be read" in log.getvalue()
    assert result.obs["novelty_p"].notna().all()
    assert result.uns["vae_transfer"]["query"]["difference"].isna().all()


@pytest.mark.slow
def test_labels_of_one_batch_are_said_to_be_of_one_batch(three):
    query, reference = three
    reference.obs["cell_type"] = reference.obs["cell_type"].where(reference.obs["batch"] == "batch_0")
    verdict = mapped(query, reference, label_key="cell_type").uns["vae_transfer"]["verdict"]
    assert "calibrated on random halves of the reference, which has labels in one batch only" in verdict


@pytest.mark.slow
def test_without_labels_nothing_is_left_of_what_was_said_of_them(three):
    query, reference = three
    result = mapped(query, reference, label_key="cell_type")
    assert "vae_transfer" in result.uns
    again = mapped(result, reference)
    assert "vae_transfer" not in again.uns
    assert {"novelty_p", "novel"}.isdisjoint(again.obs)


@pytest.mark.parametrize("n_missing", [0, 10])
def test_query_and_reference_joined_by_the_documented_line_go_on_as_one(three, n_missing):
    query, reference = three
    query = mapped(query[:, n_missing:].copy(), reference, label_key="cell_type")
    joined = ad.concat([query, reference], merge="first", uns_merge="first")
    before = joined.obsm["X_vae"].copy()
    np.testing.assert_array_equal(before, np.concatenate([query.obsm["X_vae"], reference.obsm["X_vae"]]))
    assert joined.varm["vae_loadings"].shape == (joined.n_vars, 6)
    sc.pp.neighbors(joined, use_rep="X_vae", transformer="sklearn")
    assert joined.obsp["distances"].shape == (450, 450)
    sc_vaenb.tl.normalized(joined, device="cpu")
    assert np.isfinite(joined.layers["normalized"]).all()
    sc_vaenb.tl.embed(joined, device="cpu")
    n_same = query.n_obs if n_missing else joined.n_obs  # without its genes, the reference is embedded a bit elsewhere
    np.testing.assert_allclose(joined.obsm["X_vae"][:n_same], before[:n_same], atol=1e-5)
