"""The audit of the design: what it says of layouts whose answer is known."""

import re

import anndata
import numpy as np
import pytest

import sc_vaenb
from sc_vaenb.tl import _design as module
from sc_vaenb.tl._batch_column import BATCH_COLUMN

SHARED, CONDITION, ONE_SIDED = module.SHARED, module.CONDITION, module.ONE_SIDED


@pytest.fixture(scope="module")
def _laid_out():
    """Four batches with a batch effect, each of two libraries without, and four types."""
    adata = sc_vaenb.datasets.simulate(800, 150, n_types=4, n_batches=4, mean_depth=800, rng=3)
    adata.layers["counts"] = adata.X.copy()
    batch = adata.obs["batch"].astype(str)
    adata.obs["library"] = (batch + "_" + np.random.default_rng(0).integers(0, 2, 800).astype(str)).astype("category")
    adata.obs["site"] = np.where(batch.isin(["batch_0", "batch_1"]), "north", "south")
    return adata


@pytest.fixture
def laid_out(_laid_out):
    return _laid_out.copy()


def only(adata, **types_of_batches):
    """The cells of some types in some batches, and all of the others."""
    batch, label = adata.obs["batch"].astype(str), adata.obs["cell_type"].astype(str)
    kept = np.ones(adata.n_obs, bool)
    for name, types in types_of_batches.items():
        kept &= (batch != name) | label.isin([f"type_{i}" for i in types])
    return adata[kept].copy()


def answers(adata, **keys):
    sc_vaenb.tl.design(adata, keys.pop("batch_key", "batch"), **keys)
    findings = adata.uns["design"]["findings"]
    return dict(zip(findings["question"], zip(findings["answer"], findings["sentence"], strict=True), strict=True))


def test_batches_that_share_types_are_linked(laid_out):
    answer, sentence = answers(laid_out, label_key="cell_type")[SHARED]
    assert (answer, sentence) == ("yes", "All 4 batches are linked by types that they share.")
    assert laid_out.uns["design"]["findings"]["evidence"][0] == (
        "Of 4 types, 4 are in every batch and 0 in one batch only."
    )


def test_types_and_conditions_too_small_to_be_judged_are_counted_and_named(laid_out):
    few = np.flatnonzero((laid_out.obs["cell_type"] == "type_0") & (laid_out.obs["batch"] == "batch_1"))[:9]
    label = laid_out.obs["cell_type"].astype(str).to_numpy()
    label[few[:5]], label[few[5:]] = "mast", "platelet"
    laid_out.obs["cell_type"] = label
    laid_out.obs["condition"] = np.where(label == "mast", "relapse", np.where(np.arange(800) % 2, "case", "control"))
    answers(laid_out, label_key="cell_type", condition_key="condition")
    shared, conditions = laid_out.uns["design"]["findings"]["evidence"][:2]
    limit = "too small to be judged (fewer than 10 cells, or 2% of the batch, in every batch)"
    assert shared == (f"Of 6 types, 4 are in every batch and 0 in one batch only. 2 are {limit}: mast, platelet.")
    assert conditions.endswith(f"Left out, because they are {limit}: relapse.")


def test_sets_of_batches_without_a_type_in_common_are_named(laid_out):
    apart = only(laid_out, batch_0=(0, 1), batch_1=(0, 1), batch_2=(2, 3), batch_3=(2, 3))
    answer, sentence = answers(apart, label_key="cell_type")[SHARED]
    assert answer == "no"
    assert "2 sets without a type in common: batch_0, batch_1 | batch_2, batch_3. Between the sets no" in sentence


def test_one_type_that_alone_links_batches_is_named(laid_out):
    linked = only(laid_out, batch_0=(0, 1), batch_1=(0, 1), batch_2=(1, 2, 3), batch_3=(2, 3))
    answer, sentence = answers(linked, label_key="cell_type")[SHARED]
    assert answer == "yes"
    assert "But type 'type_1' alone links batch_0, batch_1 | batch_2, batch_3" in sentence


CONDITIONS = {
    "crossed": (lambda batch, odd: np.where(odd, "a", "b"), "can be seen within batches, free of batch effects"),
    "nested": (
        lambda batch, odd: np.where(np.isin(batch, ["batch_0", "batch_1"]), "a", "b"),
        r"Each batch is of one condition of 'condition' \(a: 2, b: 2 batches\).*sample_key='batch'",
    ),
    "confounded": (
        lambda batch, odd: np.where(batch == "batch_0", "a", "b"),
        "The effect of a cannot be told from that of its batch, because one batch alone holds it",
    ),
    "partly crossed": (
        lambda batch, odd: np.where(batch == "batch_0", np.where(odd, "a", "b"), "b"),
        "crossed with batches in part: 1 of 4 batches hold more than one",
    ),
    "partly nested": (
        lambda batch, odd: np.where(
            np.isin(batch, ["batch_0", "batch_1"]), np.where(odd, "a", "b"), np.where(odd, "c", "d")
        ),
        r"fall into 2 sets, which no batch joins: a, b \| c, d",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("expected", CONDITIONS)
def test_conditions_are_told_from_batches_or_not(laid_out, expected):
    assign, text = CONDITIONS[expected]
    odd = np.arange(laid_out.n_obs) % 2 == 1
    laid_out.obs["condition"] = assign(laid_out.obs["batch"].astype(str).to_numpy(), odd)
    found = answers(laid_out, label_key="cell_type", condition_key="condition")
    assert found[CONDITION][0] == expected
    assert re.search(text, found[CONDITION][1])


def test_conditions_that_share_their_one_batch_can_be_told_apart(laid_out):
    batch, odd = laid_out.obs["batch"].astype(str).to_numpy(), np.arange(laid_out.n_obs) % 2 == 1
    laid_out.obs["condition"] = np.where(batch == "batch_0", np.where(odd, "a", "b"), "c")
    laid_out.obs.loc[batch == "batch_1", "condition"] = "d"
    answer, sentence = answers(laid_out, condition_key="condition")[CONDITION]
    assert answer == "confounded"
    assert sentence.startswith("The effect of d cannot be told from that of its batch")


def test_labels_that_no_cell_has_are_no_labels(laid_out):
    laid_out.obs["cell_type"] = "Unknown"
    found = answers(laid_out, label_key="cell_type")
    assert found[SHARED][0] == "cannot be told"
    assert found[BATCH_COLUMN][0] == "batch"
    assert "within clusters" in laid_out.uns["design"]["findings"]["evidence"].iloc[-1]


def test_without_a_pca_the_layout_is_read_all_the_same(laid_out):
    one = np.arange(laid_out.n_vars) == int(laid_out.X.sum(axis=0).argmax())
    found = answers(laid_out, label_key="cell_type", mask_var=one)
    assert found[SHARED][0] == "yes"
    assert found[BATCH_COLUMN][0] == "cannot be told"
    assert "needs two cells and two genes at least" in found[BATCH_COLUMN][1]
    assert laid_out.uns["design"]["columns"].empty


def test_types_that_cannot_be_compared_are_named(laid_out):
    laid_out.obs["condition"] = laid_out.obs["site"]
    apart = only(laid_out, batch_0=(0, 1, 2), batch_1=(0, 1), batch_2=(0, 2, 3), batch_3=(0, 2, 3))
    answer, sentence = answers(apart, label_key="cell_type", condition_key="condition")[ONE_SIDED]
    assert answer == "all but type_1, type_3 and type_2"
    assert "Types type_1, type_3 cannot be compared between conditions of 'condition': fewer than two" in sentence
    assert "For type_2 no two conditions have two batches each, so a test with sample_key='batch'" in sentence


UNITS = {
    "batch": ("batch", "'batch' is a good choice of batch: its values differ, and those of 'library' within it do not"),
    "site": ("batch", "'site' is too coarse: within its values, cells of one kind differ between values of 'batch'"),
    "library": ("batch", "'library' is finer than needed: its values do not differ within those of 'batch', which do"),
}


@pytest.mark.slow
@pytest.mark.parametrize("given", UNITS)
@pytest.mark.parametrize("label_key", ["cell_type", None])
def test_the_column_that_is_the_batch_is_found(laid_out, given, label_key):
    expected, text = UNITS[given]
    answer, sentence = answers(laid_out, batch_key=given, label_key=label_key)[BATCH_COLUMN]
    assert answer == expected
    assert sentence.startswith(text)
    columns = laid_out.uns["design"]["columns"]
    assert columns.loc["library", "within"] == "batch"
    assert columns.loc["library", "p"] > 0.01
    assert columns.loc["batch", "separation"] > 0.05


def test_batches_at_random_are_no_batch_effect(laid_out):
    laid_out = laid_out[laid_out.obs["batch"] == "batch_1"].copy()
    laid_out.obs["half"] = (np.random.default_rng(5).random(laid_out.n_obs) < 0.5).astype(str)
    answer, sentence = answers(laid_out, batch_key="half", label_key="cell_type")[BATCH_COLUMN]
    assert answer == "none"
    assert "no batch effect is seen" in sentence


def test_a_crossed_column_that_matters_is_offered_as_a_covariate(laid_out):
    batch = laid_out.obs["batch"].astype(str)
    laid_out.obs["plate"] = batch  # the technical difference is here
    laid_out.obs["batch"] = (np.arange(laid_out.n_obs) % 2).astype(str)
    del laid_out.obs["library"], laid_out.obs["site"]
    columns = answers(laid_out, label_key="cell_type")
    assert laid_out.uns["design"]["columns"].loc["plate", "relation"] == "crossed"
    assert columns[BATCH_COLUMN][0] == "none"
    assert "also differ between values of 'plate': if that is technical" in columns[BATCH_COLUMN][1]


def test_what_is_written_can_be_read_again(laid_out, tmp_path):
    laid_out.obs["cell_type"] = laid_out.obs["cell_type"].cat.rename_categories({"type_0": "T/NK|_index"})
    answers(laid_out, label_key="cell_type", condition_key="site")
    laid_out.write_h5ad(tmp_path / "a.h5ad")
    found = anndata.read_h5ad(tmp_path / "a.h5ad").uns["design"]
    cells = found["cells"]
    assert set(cells.columns) == {"batch", "condition", "label", "n_cells"}
    assert cells["n_cells"].sum() == laid_out.n_obs
    assert found["params"]["condition_key"] == "site"


def test_cells_without_a_label_do_not_count(laid_out):
    label = laid_out.obs["cell_type"].astype(str)
    laid_out.obs["cell_type"] = label.where(np.arange(laid_out.n_obs) % 3 > 0, "Unknown")
    assert answers(laid_out, label_key="cell_type")[SHARED][0] == "yes"
    assert (laid_out.uns["design"]["cells"].query("label == ''")["n_cells"]).sum() == 267
    assert "Of 4 types" in laid_out.uns["design"]["findings"]["evidence"][0]


@pytest.mark.parametrize(
    ("keys", "error", "text"),
    [
        ({"label_key": "batch"}, ValueError, "batch_key and label_key both name 'batch'. Give two different"),
        ({"condition_key": "absent"}, KeyError, "condition_key='absent' is not in adata.obs"),
        ({"condition_key": "one"}, ValueError, r"obs\['one'\] holds fewer than two conditions"),
        ({"layer": "absent"}, KeyError, "layer='absent' is not in adata.layers"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_is_refused(laid_out, refused, keys, error, text):
    laid_out.obs["one"] = "one"
    with refused(laid_out, error, text):
        sc_vaenb.tl.design(laid_out, "batch", **keys)
