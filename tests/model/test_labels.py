"""The classifier of latent states, and what it adds to the objective."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from sc_vaenb.model.config import ModelConfig
from sc_vaenb.model.minibatch import ForwardState, without_counts
from sc_vaenb.model.penalty import PENALTIES
from sc_vaenb.model.vae import CountVAE

CONFIG = ModelConfig(n_genes=7, n_latent=3, labels=("a", "b", "c", "d"), penalties={"labels": 2.0})


def passed(label):
    z = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)).requires_grad_()
    side_inputs = {} if label is None else {"label": torch.tensor(label)}
    batch = without_counts(torch.ones(5), torch.zeros(5, dtype=torch.int64), 7, side_inputs)
    return ForwardState(batch, z, z, z, z)


@pytest.fixture
def model():
    with torch.random.fork_rng():
        model = CountVAE(CONFIG)
        torch.nn.init.normal_(model.penalties["labels"].classifier.weight)
    return model


def test_only_known_labels_count(model):
    seen, classifier = passed([2, -1, 0, -1, 3]), model.penalties["labels"].classifier
    log_p = log_softmax((seen.z @ classifier.weight.T + classifier.bias).detach().numpy(), axis=1)
    expected = -2.0 * (log_p[0, 2] + log_p[2, 0] + log_p[4, 3]) / 5
    assert model.penalties["labels"](seen).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("label", [[-1] * 5, None])
def test_without_a_label_nothing_is_added_and_nothing_moves(model, label):
    seen = passed(label)
    value = model.penalties["labels"](seen)
    assert value.item() == 0
    (value + 0 * seen.z.sum()).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None] + [seen.z.grad]
    assert all((gradient == 0).all() for gradient in gradients)


def test_a_new_classifier_has_no_opinion(model):
    new = PENALTIES["labels"](CONFIG)
    np.testing.assert_allclose(new.probabilities(torch.randn(5, 3)).detach().numpy(), 0.25)
