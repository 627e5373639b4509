"""From latent states to labels: a logistic regression with probabilities that come true."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from sc_vaenb.fit.classify import calibration_error, classify, hold_back, temperature
from sc_vaenb.model.config import ModelConfig
from sc_vaenb.model.labels import Labels


def head(n_labels, n_latent=2):
    labels = tuple("abcdef"[:n_labels])
    return Labels(ModelConfig(n_genes=1, n_latent=n_latent, labels=labels, penalties={"labels": 1.0}))


@pytest.mark.parametrize("n_labels", [2, 3])
def test_separate_labels_are_found(n_labels):
    rng = np.random.default_rng(0)
    truth = rng.integers(n_labels, size=400)
    embedding = (4 * np.eye(3)[truth] + rng.normal(size=(400, 3))).astype(np.float32)
    label = np.where(rng.random(400) < 0.1, truth, -1)
    labels = head(n_labels, 3)
    scores = classify(labels, embedding, label, hold_back(label, 0), 0)
    found = labels.probabilities(torch.from_numpy(embedding)).argmax(1).numpy()
    assert (found == truth).mean() > 0.95
    assert scores == {"n_known": (label >= 0).sum(), "n_held_back": 0, "temperature": 1.0}


def test_a_label_that_no_cell_has_is_not_predicted():
    embedding = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    labels = head(4)
    classify(labels, embedding, np.where(embedding[:, 0] > 0, 3, 1), np.array([], np.int64), 0)
    assert labels.probabilities(torch.from_numpy(embedding)).detach().numpy()[:, [0, 2]].max() < 1e-6


def test_overconfident_states_are_tempered():
    """Fitted cells lie apart, held-out cells do not, as where an encoder knows its cells by heart."""
    rng = np.random.default_rng(0)
    label = rng.integers(2, size=600)
    spread = np.where(np.arange(600) < 300, 0.2, 2.0)[:, None]
    embedding = ((2 * label[:, None] - 1) * [1.0, 0.0] + spread * rng.normal(size=(600, 2))).astype(np.float32)
    scores = classify(head(2), embedding, label, np.arange(300, 600), 0)
    assert scores["temperature"] > 2
    assert scores["calibration_error"] < 0.1
    assert 0.6 < scores["accuracy"] < 0.8


def test_the_temperature_is_found_again():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3))
    label = (softmax(logits, 1).cumsum(1) < rng.random((4000, 1))).sum(1).clip(max=2)
    assert temperature(3 * logits, label) == pytest.approx(3, rel=0.1)


def test_calibration_error_is_what_promises_lack():
    promised = np.array([[0.9, 0.1]] * 10)
    assert calibration_error(promised, np.array([0] * 9 + [1])) == pytest.approx(0, abs=1e-12)
    assert calibration_error(promised, np.array([0] * 4 + [1] * 6)) == pytest.approx(0.5)


def test_labels_are_held_back_of_every_kind_but_the_last_of_a_kind_and_not_of_few():
    label = np.repeat([0, 1, 2, -1], [1000, 300, 1, 500])
    calibration_cells = hold_back(label, 0)
    assert np.bincount(label[calibration_cells]).tolist() == [100, 30]
    assert np.array_equal(calibration_cells, hold_back(label, 0))
    assert len(hold_back(label[:300], 0)) == 50
    assert len(hold_back(label[:249], 0)) == 0


def batches_that_differ(seed=0):
    """Three batches, in each of which the labels lie apart in a direction of its own, beside one that all share."""
    rng = np.random.default_rng(seed)
    label, batch = rng.integers(2, size=1200), np.arange(1200) % 3
    embedding = rng.normal(size=(1200, 4))
    embedding[:, 0] += 1.0 * (2 * label - 1)
    embedding[np.arange(1200), 1 + batch] += 2.0 * (2 * label - 1)
    return embedding.astype(np.float32), label, batch


def test_labels_of_other_batches_say_less_and_that_is_told():
    embedding, label, batch = batches_that_differ()
    scores = classify(head(2, 4), embedding, label, hold_back(label, 0), 0, batch)
    assert scores["accuracy_across_batches"] < scores["accuracy"] - 0.03
    assert scores["across_batches"] == 0


def test_cells_of_batches_without_labels_get_the_probabilities_of_other_batches():
    embedding, truth, batch = batches_that_differ()
    label = np.where(batch == 2, -1, truth)
    calibration_cells, unknown = hold_back(label, 0), batch == 2
    gaps = []
    for codes in (None, batch):
        labels = head(2, 4)
        scores = classify(labels, embedding, label, calibration_cells, 0, codes)
        probabilities = labels.probabilities(torch.from_numpy(embedding[unknown])).detach().numpy()
        right = probabilities.argmax(1) == truth[unknown]
        gaps.append(abs(probabilities.max(1).mean() - right.mean()))
    assert scores["across_batches"] == 1
    assert gaps[1] < gaps[0]


def test_one_batch_says_nothing_of_others():
    embedding, label, _ = batches_that_differ()
    scores = classify(head(2, 4), embedding, label, hold_back(label, 0), 0, np.zeros(1200, np.int64))
    assert not [name for name in scores if "across" in name]
