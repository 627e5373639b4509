import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_array

from sc_vaenb.metrics._check import check_embedding, check_groups


def test_embedding_becomes_float64_and_contiguous():
    array = check_embedding(np.asfortranarray(np.ones((4, 3), dtype=np.float32)))
    assert array.dtype == np.float64
    assert array.flags.c_contiguous


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones(5), r"embedding has shape \(5,\): pass a 2-D array of cells x dimensions"),
        (np.ones((5, 0)), r"embedding has shape \(5, 0\)"),
        (np.ones((1, 3)), r"embedding has 1 cells: at least 2 are needed"),
        (csr_array(np.eye(3)), r"embedding is a sparse matrix"),
        ([["a", "b"], ["c", "d"]], r"embedding cannot be read as numbers"),
        ([[0.0, 1.0], [2.0, np.nan]], r"embedding holds 1 non-finite values \(first: cell 1, dimension 1: nan\)"),
        ([[np.inf, 1.0], [np.nan, 3.0]], r"embedding holds 2 non-finite values \(first: cell 0, dimension 0: inf\)"),
    ],
)
def test_bad_embeddings_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        check_embedding(values)


@pytest.mark.parametrize(
    "values",
    [
        np.array(["b", "a", "b"]),
        ["b", "a", "b"],
        pd.Series(["b", "a", "b"]),
        pd.Series(pd.Categorical(["b", "a", "b"], categories=["unused", "b", "a"])),
        np.array(["b", "a", "b"], dtype=object),
    ],
)
def test_groups_from_any_container_are_the_same(values):
    groups = check_groups(values, 3, "labels")
    assert groups.codes.tolist() == [1, 0, 1]
    assert groups.names == ["a", "b"]
    assert groups.sizes.tolist() == [1, 2]


def test_numbers_and_booleans_are_groups():
    assert check_groups([10, 9, 10], 3, "labels").names == ["9", "10"]
    assert check_groups([True, False], 2, "labels").names == ["False", "True"]
    assert check_groups([1.5, 0.5], 2, "labels").names == ["0.5", "1.5"]


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT])
def test_missing_labels_are_counted(missing):
    with pytest.raises(ValueError, match=r"labels has 2 missing values \(first: cell 1\): drop these cells"):
        check_groups(np.array(["a", missing, "b", missing], dtype=object), 4, "labels")


def test_missing_categories_are_counted():
    with pytest.raises(ValueError, match=r"batch has 1 missing values \(first: cell 2\)"):
        check_groups(pd.Categorical(["a", "b", None]), 3, "batch")


def test_wrong_lengths_and_single_groups_are_named():
    with pytest.raises(ValueError, match=r"labels has 2 entries but there are 3 cells: pass one entry per cell"):
        check_groups(["a", "b"], 3, "labels")
    with pytest.raises(ValueError, match=r"batch has 1 distinct value \('a'\) but at least 2 are needed"):
        check_groups(["a", "a"], 2, "batch", min_groups=2)
    with pytest.raises(ValueError, match=r"labels has shape \(2, 1\): pass a 1-D array"):
        check_groups([["a"], ["b"]], 2, "labels")
