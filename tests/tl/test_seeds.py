"""Fits with other seeds: neighbours in common, and what is said of them."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from sc_vaenb.tl._seeds import seed_overlap, seeds_in_words


@pytest.fixture
def overlap():
    rng = np.random.default_rng(0)
    adata = ad.AnnData(np.zeros((300, 1), np.float32))
    same = rng.normal(size=(300, 4)).astype(np.float32)
    others = {f"X_b{i}": rng.normal(size=(300, 4)).astype(np.float32) for i in range(3)}
    adata.obsm.update({"X_pca": same, "X_a": same, "X_a1": 2 * same, **others})
    methods = pd.DataFrame({"embedding": ["X_pca", "X_a", "X_a1", "X_b0", "X_b1", "X_b2"]})
    methods["method"] = ["PCA", "A", "A", "B", "B", "B"]
    return seed_overlap(adata, methods, 0)


def test_neighbours_in_common_are_counted_over_pairs_of_seeds(overlap):
    assert overlap["method"].tolist() == ["A", "B"]  # of one fit there is nothing to compare
    assert overlap["n_seeds"].tolist() == [2, 3]
    assert overlap["overlap"].tolist() == pytest.approx([1.0, 15 / 299], abs=0.02)


def test_seeds_that_disagree_are_told(overlap):
    agree, disagree = seeds_in_words(overlap)
    assert (agree.subject, agree.answer) == ("A", "yes")
    assert (disagree.subject, disagree.answer) == ("B", "no")
    assert disagree.sentence.startswith("B depends on the seed: most neighbours of a cell differ between fits.")
    assert "are the same in two fits on average (3 seeds)" in disagree.evidence
