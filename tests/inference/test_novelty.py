"""Confidence of labels and conformal p-values, on references laid out by hand."""

import re

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import false_discovery_control

from sc_vaenb.inference.confidence import calibrate
from sc_vaenb.inference.novelty import Novelty, discoveries, pooled_expression
from sc_vaenb.inference.transfer import Reference, batches_or_halves, draw_sample
from sc_vaenb.tl._transfer import transfer_labels

N_GENES, K = 60, 10
AT = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0], [8.0, 8.0], [8.2, 8.0]])  # the last is where the one before it is
RATE = np.full((5, N_GENES), 2.0)
for _type in range(5):
    RATE[_type, 10 * _type : 10 * _type + 10] = 15.0


def cells(label, seed, batch_effect=0.0):
    """States and counts of types; the fifth lies on the fourth, and expresses other genes."""
    rng = np.random.default_rng(seed)
    state = (AT[label] + rng.normal(size=(len(label), 2))).astype(np.float32)
    effect = np.exp(np.random.default_rng(seed + 100).normal(0, batch_effect, N_GENES))
    return state, sparse.csr_matrix(rng.poisson(RATE[label] * effect).astype(np.float32))


def reference(n_labels=4, n_batches=3, counts=True, batch_effect=0.0):
    label = np.arange(60 * n_labels * n_batches) % n_labels
    batch = np.arange(len(label)) // (60 * n_labels)
    parts = [cells(label[batch == b], b, batch_effect) for b in range(n_batches)]
    state, matrix = np.concatenate([p[0] for p in parts]), sparse.vstack([p[1] for p in parts], format="csr")
    folds, across = batches_or_halves(batch, 0)
    sample = draw_sample(folds, 0)
    names = list("abcdef"[:n_labels])
    return Reference(state, label, folds, across, sample, state[sample], matrix[sample] if counts else None, names)


def query(label, seed=50, batch_effect=0.0):
    """States, counts and the labels that they are given."""
    state, counts = cells(label, seed, batch_effect)
    return state, counts, np.minimum(label, 3)


KNOWN = np.arange(240) % 4


@pytest.mark.slow
@pytest.mark.parametrize("batch_effect", [0.0, 0.3])
def test_p_values_of_known_types_are_as_small_as_chance_makes_them(batch_effect):
    p, enough_types, _, differs = Novelty(reference(batch_effect=batch_effect), K, 0)(*query(KNOWN, 50, batch_effect))
    assert enough_types
    assert not differs.any()
    assert 0.3 < p.mean() < 0.8
    assert (p < 0.05).mean() < 0.12
    assert discoveries(p, 0.1).mean() < 0.05


@pytest.mark.slow
@pytest.mark.parametrize("batch_effect", [0.0, 0.3])
def test_a_new_type_on_a_known_one_is_found_by_its_expression_and_not_without(batch_effect):
    label = np.concatenate([KNOWN, np.full(60, 4)])
    with_counts, _, difference, _ = Novelty(reference(batch_effect=batch_effect), K, 0)(*query(label, 50, batch_effect))
    latent_only, _, untold, _ = Novelty(reference(counts=False), K, 0)(*query(label))
    assert discoveries(with_counts, 0.1)[label == 4].mean() > 0.9
    assert discoveries(with_counts, 0.1)[label < 3].mean() < 0.05
    assert discoveries(latent_only, 0.1).mean() < 0.05
    assert difference[3] > 0.8  # half of these cells are of the new type
    assert (difference[:3] < 0.5).all()
    assert np.isnan(untold).all()


def test_two_types_do_not_tell_a_batch_effect_from_what_is_new():
    assert not Novelty(reference(), K, 0)(*query(KNOWN % 2)).enough_types


@pytest.mark.slow
def test_few_cells_of_a_label_give_no_p_values():
    whole = reference()
    kept = np.flatnonzero((whole.label != 3) | (np.arange(len(whole.label)) < 60))  # 15 cells of label 3
    part = Reference(
        whole.embedding[kept], whole.label[kept], whole.batch[kept], True, np.arange(len(kept)),
        whole.sample_embedding[kept], whole.counts[kept], whole.names,
    )  # fmt: skip
    novelty = Novelty(part, K, 0)
    p = novelty(*query(KNOWN)).p
    assert novelty.n_calibration[3] < 19
    assert np.isnan(p[KNOWN == 3]).all()
    assert np.isfinite(p[KNOWN != 3]).all()


@pytest.mark.slow
def test_types_that_lie_apart_would_be_noticed_and_the_same_type_twice_would_not():
    left_out = Novelty(reference(), K, 0).left_out()
    assert (left_out.auroc > 0.95).all()
    assert (left_out.found > 0.9).all()
    whole = reference()
    twins = np.where((whole.label == 0) & (np.arange(len(whole.label)) % 8 == 0), 4, whole.label)
    part = Reference(
        whole.embedding,
        twins,
        whole.batch,
        True,
        whole.sample,
        whole.sample_embedding,
        whole.counts,
        [*whole.names, "e"],
    )
    left_out = Novelty(part, K, 0).left_out()
    assert left_out.called[4] == 0
    assert left_out.auroc[4] < 0.7
    assert left_out.found[4] < 0.3


def test_confidence_comes_true_in_a_batch_that_was_not_there():
    """Half of the labels of one type are of another, at random: the votes know, and the confidence says it."""
    whole = reference(n_batches=5)
    rng = np.random.default_rng(0)
    label = np.where((whole.label == 0) & (rng.random(len(whole.label)) < 0.5), 1, whole.label)
    part = Reference(
        whole.embedding, label, whole.batch, True, whole.sample, whole.sample_embedding, whole.counts, whole.names
    )
    confidence = calibrate(part, K)
    voted, share = part.votes(K)
    stated = confidence(share)
    uncertain = share < 0.8
    assert uncertain.mean() > 0.1
    assert stated.mean() == pytest.approx((voted == label).mean(), abs=0.03)
    assert stated[uncertain].mean() == pytest.approx((voted == label)[uncertain].mean(), abs=0.08)
    np.testing.assert_allclose(confidence.stated, confidence.right, atol=0.08)


def test_labels_of_one_batch_each_have_no_confidence():
    whole = reference(n_batches=2)
    part = Reference(
        whole.embedding,
        whole.label + 4 * whole.batch,
        whole.batch,
        True,
        whole.sample,
        whole.sample_embedding,
        None,
        list("abcdefgh"),
    )
    assert calibrate(part, K) is None


def test_one_batch_is_halved_at_random():
    halves, across = batches_or_halves(np.zeros(100, np.int64), 0)
    assert not across
    assert np.bincount(halves).tolist() == [50, 50]
    batches, across = batches_or_halves(np.array([3, 3, 7]), 0)
    assert across
    assert batches.tolist() == [0, 0, 1]


def test_the_sample_has_of_every_batch_and_no_more_than_it_may(monkeypatch):
    monkeypatch.setattr("sc_vaenb.inference.transfer.MAX_CALIBRATION_CELLS", 90)
    batch = np.repeat([0, 1, 2], [10, 200, 300])
    drawn = draw_sample(batch, 0)
    assert np.bincount(batch[drawn]).tolist() == [10, 40, 40]
    assert (np.diff(drawn) > 0).all()


def test_expression_is_pooled_within_types():
    label = np.arange(100) % 4
    pooled = pooled_expression(cells(label, 0)[1], 0) ** 2
    expected = (RATE / RATE.sum(1, keepdims=True) * 1e4)[label]
    np.testing.assert_allclose(pooled.sum(1), 1e4, rtol=1e-4)
    assert np.corrcoef(pooled.ravel(), expected.ravel())[0, 1] > 0.98


def test_discoveries_are_those_of_benjamini_and_hochberg():
    p = np.array([0.001, 0.02, 0.8, 0.029, np.nan, 0.5])

    known = np.isfinite(p)
    np.testing.assert_array_equal(discoveries(p, 0.05)[known], false_discovery_control(p[known]) <= 0.05)
    assert not discoveries(p, 0.05)[~known].any()
    assert not discoveries(np.array([]), 0.1).any()


@pytest.mark.slow
def test_sentences_name_the_batch_the_label_and_the_numbers():
    label = np.concatenate([KNOWN, np.full(60, 4)])
    state, counts, _ = query(label)
    batch = np.zeros(len(label), np.int64)
    columns, tables = transfer_labels(reference(), "kind", ["x", "y", "z"], state, counts, batch, ["new"], K, 0)
    row = tables["query"].set_index("label").loc["d"]
    assert tables["query"].query("new")["label"].tolist() == ["d"]
    assert row["n_cells"] == (columns["kind_predicted"] == 3).sum()
    assert row["n_novel"] > 50
    assert (
        "Batch 'new' seems to have cells of a type that the reference lacks. Check marker genes before you trust these "
        f"labels: d ({row['n_cells']} cells), where {row['n_novel']} cells differ from those of the reference (false "
        "discovery rate 10%)"
    ) in tables["verdict"]
    assert tables["calibration"].index.tolist() == ["x", "y", "z"]
    low, high = tables["expected"]
    stated = columns["kind_confidence"].mean()
    miss = np.sqrt(((tables["calibration"]["stated"] - tables["calibration"]["right"]) ** 2).mean())
    assert low == pytest.approx(max(stated - 2.353 * miss, 0), abs=1e-3)  # 90 % of a t distribution, three batches
    assert high == pytest.approx(min(stated + 2.353 * miss, 1), abs=1e-3)
    assert f"In a single batch, expect {low:.0%} to {high:.0%} of the labels to be right." in tables["verdict"]


@pytest.mark.slow
def test_relatives_that_would_hide_are_named_with_the_evidence():
    whole = reference()
    twins = np.where((whole.label == 0) & (np.arange(len(whole.label)) % 8 == 0), 4, whole.label)
    part = Reference(
        whole.embedding,
        twins,
        whole.batch,
        True,
        whole.sample,
        whole.sample_embedding,
        whole.counts,
        [*whole.names, "e"],
    )
    state, counts, _ = query(KNOWN)
    verdict = transfer_labels(part, "kind", list("xyz"), state, counts, np.zeros(240, np.int64), ["new"], K, 0)[1][
        "verdict"
    ]
    assert "No type that the reference lacks was noticed in new." in verdict
    assert re.search(
        r"If the reference lacked them, a would be called e \(\d+% of the cells found to be new, AUROC 0\.\d\d\)",
        verdict,
    )
    assert "So be careful with cells that are called a, e." in verdict
