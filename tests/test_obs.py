"""Columns of obs as batches: one column, or the combinations of several."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from sc_vaenb import _obs

SEVERAL = ["donor", "tech"]


def with_obs(**columns):
    obs = pd.DataFrame(columns, index=[f"cell{i}" for i in range(len(next(iter(columns.values()))))])
    return ad.AnnData(np.ones((len(obs), 2), np.float32), obs)


def test_the_combinations_that_occur_are_the_batches_in_the_order_of_the_categories():
    adata = with_obs(donor=["d2", "d1", "d2", "d1", "d10"], tech=pd.Categorical(list("bbaba"), ["b", "a", "c"]))
    codes, names = _obs.batch_labels(adata, SEVERAL)
    assert names.tolist() == ["d1 | b", "d10 | a", "d2 | b", "d2 | a"]
    assert codes.tolist() == [2, 0, 3, 0, 1]


def test_nested_columns_give_the_batches_of_the_finer_one():
    adata = with_obs(donor=["d1", "d2", "d1", "d3"], tech=["a", "b", "a", "a"])
    assert _obs.batch_labels(adata, SEVERAL)[0].tolist() == _obs.batch_labels(adata, "donor")[0].tolist()


def test_numbers_are_named_alike_and_three_columns_are_joined():
    adata = with_obs(donor=[1.0, 2.0], tech=[1, 2], lab=["x", "y"])
    assert _obs.batch_labels(adata, [*SEVERAL, "lab"])[1].tolist() == ["1 | 1 | x", "2 | 2 | y"]


def test_names_that_could_be_two_combinations_are_refused():
    adata = with_obs(donor=["a", "a | b"], tech=["b | c", "c"])  # both would be "a | b | c"
    with pytest.raises(
        ValueError, match=r"obs\['donor'\] holds 'a \| b', but '\|' separates the columns .* Replace it"
    ):
        _obs.batch_labels(adata, SEVERAL)
    assert _obs.batch_labels(adata, "donor")[1].tolist() == ["a", "a | b"]  # one column may hold them


def test_a_cell_without_a_value_in_one_column_is_refused_and_named():
    adata = with_obs(donor=["a", "a", "b"], tech=["x", None, "x"])
    with pytest.raises(ValueError, match=r"obs\[\['donor', 'tech'\]\] is missing for 1 cells \(first: 'cell1'\)"):
        _obs.batch_labels(adata, SEVERAL)


def test_the_missing_column_is_named():
    with pytest.raises(KeyError, match=r"batch_key='no' is not in adata\.obs"):
        _obs.batch_labels(with_obs(donor=["a", "b"]), ["donor", "no"])


@pytest.mark.parametrize("batch_key", ["donor", SEVERAL])
def test_the_columns_are_found_again_from_codes_and_names(batch_key):
    adata = with_obs(donor=["a ", "b", "a ", "b"], tech=[" x", " x", "y", "y"])
    columns = _obs.batch_columns(batch_key, *_obs.batch_labels(adata, batch_key))
    assert list(columns) == _obs.columns_of(batch_key)
    assert all(np.asarray(values).tolist() == adata.obs[key].tolist() for key, values in columns.items())
