"""Names of batches, labels and genes, whatever they are: read by one rule, and written so that files can hold them."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import sc_vaenb
from sc_vaenb import tl
from sc_vaenb._names import LONGEST, column_names, is_writable, means_no_label, name_of, names_of, texts

NASTY = ["T/NK", "T|NK", "T\\NK", "_index", "__proto__", ".", "..", "ß漢字🙂", "a\nb", "x" * 300, "x" * 301, " ", "%2F"]
NASTY += ["/", "//", "|", "zarr.json", ".zattrs", "index", "columns", "ü" * 130, "rest", "T|NK|2"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["T/NK", "B"], ["T|NK", "B"]),
        (["T/NK", "T|NK"], ["T|NK|2", "T|NK"]),
        (["T/NK", "T|NK|2", "T\\NK", "T|NK"], ["T|NK|3", "T|NK|2", "T|NK|4", "T|NK"]),
        (["", "_index", ".", "a\0b", "\ud800"], ["|", "|_index", "|.", "a|b", "||2"]),
        (["x" * 300], ["x" * (LONGEST - 1) + "|"]),
        (["CD3D", " a ", "ß漢字🙂"], ["CD3D", " a ", "ß漢字🙂"]),
    ],
)
def test_names_become_such_as_files_can_hold_and_differ(names, expected):
    found = column_names(names)
    assert found == expected
    assert all(map(is_writable, found))
    assert column_names(found) == found


def written_and_read(adata, folder):
    adata.write_h5ad(folder / "a.h5ad")
    adata.write_zarr(folder / "a.zarr")
    return ad.read_h5ad(folder / "a.h5ad"), ad.read_zarr(folder / "a.zarr")


def tables(value, path=""):
    """Every table in an AnnData, with where it is."""
    if isinstance(value, pd.DataFrame):
        yield path, value
    elif hasattr(value, "items"):
        for name, part in value.items():
            yield from tables(part, f"{path}/{name}")


@pytest.fixture(scope="module")
def nasty():
    """Types, batches, genes and proteins with names that files cannot hold as those of columns."""
    n = len(NASTY)
    adata = sc_vaenb.datasets.simulate(20 * n, n + 10, n_types=3, n_batches=2, mean_depth=500, rng=0)
    adata.var_names = NASTY + [f"g{i}" for i in range(10)]
    adata.layers["counts"] = adata.X.copy()
    adata.obs["label"] = pd.Categorical(np.array(NASTY)[np.arange(adata.n_obs) % n])
    adata.obs["batch"] = pd.Categorical(np.array(NASTY[:2])[np.arange(adata.n_obs) // n % 2])
    adata.obs["lane"] = pd.Categorical(np.array(NASTY[3:6])[np.arange(adata.n_obs) % 3])
    adata.obsm["protein"] = np.random.default_rng(0).poisson(3, (adata.n_obs, n)).astype(np.float32)
    adata.uns["protein_names"] = np.array(NASTY, dtype=object)
    options = {"n_latent": 3, "hidden": (8,), "n_steps": 2, "device": "cpu"}
    tl.cvae(adata, "batch", labels_key="label", protein_key="protein", covariate_keys=["lane"], **options)
    return adata


WRITERS = {
    "fit": lambda a: tl.embed(a, key_added="again"),
    "normalized": lambda a: tl.normalized(a, genes=NASTY),
    "corrected": lambda a: tl.corrected(a, batch=NASTY[0], genes=NASTY),
    "differential": lambda a: tl.differential(a, "label", groups=NASTY[:6]),
    "importance": lambda a: tl.importance(a, groupby="label", of=NASTY[:4], max_cells=5),
    "denoised_protein": tl.denoised_protein,
    "factors": tl.factors,
    "interpolate": lambda a: tl.interpolate(a, NASTY[0], NASTY[4], groupby="label", genes=NASTY[:3], n_points=4),
    "score": lambda a: tl.score(a, "X_vae", batch_key="batch", label_key="label"),
    "map_query": lambda a: tl.map_query(a, a.copy(), label_key="label", n_steps=1),
    "posterior_check": tl.posterior_check,
    "design": lambda a: tl.design(a, "batch", label_key="label", condition_key="lane"),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Writing zarr v2")
@pytest.mark.parametrize("writer", WRITERS)
def test_what_a_function_writes_can_be_written_and_read_whatever_the_names(nasty, tmp_path, writer):
    adata = nasty.copy()
    WRITERS[writer](adata)
    for found in written_and_read(adata, tmp_path):
        for slot in ("obsm", "varm", "uns"):
            expected = dict(tables(getattr(adata, slot)))
            read = dict(tables(getattr(found, slot)))
            assert read.keys() == expected.keys()
            for name, table in expected.items():
                assert list(read[name].columns) == list(table.columns)
                pd.testing.assert_frame_equal(read[name], table, check_dtype=False, check_categorical=False)
        assert found.obs["vae_label"].tolist() == adata.obs["vae_label"].tolist()


def test_the_columns_are_in_the_order_of_the_names(nasty, log):
    adata = nasty.copy()
    tl.normalized(adata, genes=["T/NK", "T|NK"])
    swapped = tl.normalized(adata, genes=["T|NK", "T/NK"], copy=True).obsm["normalized"]
    assert list(adata.obsm["normalized"]) == ["T|NK|2", "T|NK"]
    pd.testing.assert_frame_equal(swapped[["T|NK|2", "T|NK"]], adata.obsm["normalized"])
    assert "has columns with names that files can hold: {'T/NK': 'T|NK|2'}" in log.getvalue()
    labels = adata.uns["vae"]["labels"]["names"].tolist()
    assert list(adata.obsm["vae_label_probabilities"]) == column_names(labels)


@pytest.mark.parametrize("key", ["a/b", "", "_index", "..", "a\0b", "x" * 300, 3, None])
def test_a_key_that_no_file_can_hold_is_refused(fitted, refused, key):
    with refused(fitted, ValueError, r"^key_added=.* is not possible"):
        tl.importance(fitted, key_added=key) if key is not None else tl.importance(fitted, key_added=0)


# text of values


@pytest.mark.slow
@pytest.mark.parametrize(
    "values",
    [
        np.array([0, 1]),
        np.array([0, 1], np.int8),
        np.array([0.0, 1.0]),
        np.array([0, 1], np.float32),
        np.array([0, 1.0], object),
        np.array(["0", "1"]),
        np.array([b"0", b"1"], object),
        pd.Categorical([0, 1]),
        pd.Categorical([0.0, 1.0]),
        pd.Categorical(["0", "1"]),
        pd.array([0, 1], dtype="Int64"),
        pd.array(["0", "1"], dtype="string"),
    ],
    ids=repr,
)
def test_batches_are_the_same_whatever_numbers_they_are_stored_as(adata, fast, values):
    code = np.arange(adata.n_obs) % 2
    adata.obs["b"] = code
    tl.cvae(adata, "b", **fast)
    adata.obs["b"] = pd.Series(values).iloc[code].to_numpy() if not isinstance(values, pd.Categorical) else values[code]
    expected = adata.obsm["X_vae"]
    tl.embed(adata, key_added="again")
    np.testing.assert_array_equal(adata.obsm["X_again"], expected)
    query = adata[:40].copy()
    tl.map_query(query, adata, n_steps=1)
    assert query.uns["vae"]["query"]["new_batches"].tolist() == []


def test_numbers_and_truths_as_text():
    values = [1, 1.0, np.float32(2), np.int8(3), 2.5, True, np.bool_(False), "1.0", b"x", -0.0]
    assert names_of(values) == ["1", "1", "2", "3", "2.5", "True", "False", "1.0", "x", "0"]
    assert name_of(np.inf) == "inf"
    assert texts(pd.Series([1.0, np.nan, 2.0])).tolist() == ["1", None, "2"]


# words for no label

WORDS = ["Unknown", "UNASSIGNED", "not assigned", "NA", "nan", "", "none", "unlabeled", "?", "Unclassified", "N/A", "-"]


@pytest.mark.parametrize("word", WORDS)
def test_words_for_no_label_are_known(word):
    assert means_no_label(word)


@pytest.mark.parametrize("label", ["Doublet", "Other T", "NK", "nano", "0", "1", "None-cell", "Unknown B cell"])
def test_other_labels_are_labels(label):
    assert not means_no_label(label)


def spoiled(adata, word):
    labels = adata.obs["cell_type"].astype(str).to_numpy(dtype=object)
    labels[::3] = word
    adata.obs["label"] = pd.Categorical(labels)
    labels[::3] = np.nan
    adata.obs["gaps"] = pd.Categorical(labels)
    return int(np.ceil(adata.n_obs / 3))


@pytest.mark.slow
@pytest.mark.parametrize("word", ["Unknown", "nan", "", "NA", "unassigned"])
def test_cells_with_such_a_word_are_cells_without_a_label_and_a_warning_names_it(adata, fast, log, word):
    n = spoiled(adata, word)
    said = f"obs['label'] holds {word!r} ({n} cells): taken as no label, like NaN. If it is a cell type"
    by_word, by_gap = (tl.cvae(adata, "batch", labels_key=key, copy=True, **fast) for key in ("label", "gaps"))
    assert said in log.getvalue()
    np.testing.assert_array_equal(by_word.obsm["X_vae"], by_gap.obsm["X_vae"])
    assert word not in by_word.obs["vae_label"].cat.categories
    log.truncate(0)
    found = tl.map_query(adata, by_gap, label_key="label", n_steps=1, copy=True)
    assert said in log.getvalue()
    gaps = tl.map_query(adata, by_gap, label_key="gaps", n_steps=1, copy=True)
    assert found.obs["label_predicted"].tolist() == gaps.obs["gaps_predicted"].tolist()
    log.truncate(0)
    for key in ("label", "gaps"):
        tl.score(by_gap, "X_vae", batch_key="batch", label_key=key, key_added=key)
    assert said in log.getvalue()
    pd.testing.assert_frame_equal(
        by_gap.uns["label"]["values"].drop(columns="seconds"), by_gap.uns["gaps"]["values"].drop(columns="seconds")
    )


def test_the_word_that_the_user_names_needs_no_warning(adata, fast, log):
    spoiled(adata, "Unknown")
    tl.cvae(adata, "batch", labels_key="label", unlabeled="Unknown", **fast)
    assert "Unknown" not in log.getvalue()


def test_differential_compares_such_a_group_and_says_so(fitted, log):
    n = spoiled(fitted, "Unknown")
    tl.differential(fitted, "label")
    assert f"obs['label'] holds 'Unknown' ({n} cells): compared like other groups. Make it NaN" in log.getvalue()
    assert "Unknown" in fitted.uns["differential"]["table"]["group"].cat.categories


def test_a_group_named_rest_is_compared_like_any_other(fitted, log):
    fitted.obs["group"] = fitted.obs["cell_type"].cat.rename_categories({"type_0": "rest"})
    tl.differential(fitted, "cell_type", key_added="expected")
    tl.differential(fitted, "group")
    found, expected = (fitted.uns[key]["table"] for key in ("differential", "expected"))
    assert found["group"].cat.categories.tolist() == ["rest", "type_1", "type_2"]
    pd.testing.assert_frame_equal(found.drop(columns="group"), expected.drop(columns="group"))
    assert (
        "obs['group'] has a group named 'rest', but reference='rest' means all cells of other groups" in log.getvalue()
    )
