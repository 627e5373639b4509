import pytest
import torch

from sc_vaenb.model.network import ACTIVATIONS, MLP, NORMS, BatchEmbedding, Dropout, Embedding, Linear, draw_weights


def drawn(module):
    draw_weights(module, torch.Generator().manual_seed(0))
    return module


def test_first_weights_are_those_of_torch_from_a_generator():
    own = torch.nn.Sequential(Embedding(7, 3), Linear(5, 4), Linear(4, 2, bias=False))
    before = torch.get_rng_state()
    drawn(own)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = torch.nn.Sequential(torch.nn.Embedding(7, 3), torch.nn.Linear(5, 4), torch.nn.Linear(4, 2, bias=False))
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), theirs.parameters(), strict=True))


def test_dropout_is_that_of_torch_from_a_generator():
    x = torch.arange(1.0, 1001.0).view(20, 50)
    own = Dropout(0.2).train()
    found = own(x, torch.Generator().manual_seed(0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.testing.assert_close(found, torch.nn.functional.dropout(x, 0.2))
    assert 0.1 < (found == 0).float().mean() < 0.3
    assert own.eval()(x, None) is x


def test_side_inputs_are_the_same_as_concatenated_ones():
    mlp = drawn(MLP(5, 3, (8,), 2, "relu", "none", 0.0))
    x, a, b = torch.randn(4, 5), torch.randn(4, 2), torch.randn(4, 1)
    weight = torch.cat([mlp.first.weight, mlp.side.weight], 1)
    hidden = torch.relu(torch.cat([x, a, b], 1) @ weight.T + mlp.first.bias)
    torch.testing.assert_close(mlp(x, [a, b]), hidden @ mlp.output.weight.T + mlp.output.bias)


def test_without_hidden_layers_it_is_linear():
    mlp = drawn(MLP(5, 0, (), 2, "gelu", "layer", 0.5))
    assert mlp.output is mlp.first
    x, y = torch.randn(2, 4, 5)
    torch.testing.assert_close(mlp(x, []) + mlp(y, []) - mlp.first.bias, mlp(x + y, []))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", NORMS)
def test_widths_norms_and_activations_come_in_order(activation, norm):
    mlp = MLP(5, 0, (8, 6), 2, activation, norm, 0.25)
    kinds = [type(layer) for layer in mlp.rest]
    block = [type(NORMS[norm](1)), type(ACTIVATIONS[activation]()), Dropout, Linear]
    assert kinds == block * 2
    assert [layer.out_features for layer in mlp.modules() if isinstance(layer, torch.nn.Linear)] == [8, 6, 2]
    assert all(layer.share == 0.25 for layer in mlp.modules() if isinstance(layer, Dropout))


def test_the_condition_is_onehot_or_learned():
    codes = torch.tensor([2, 0])
    assert BatchEmbedding(range(3), 0)(codes).tolist() == [[0, 0, 1], [1, 0, 0]]
    learned = drawn(BatchEmbedding(range(3), 2))
    assert torch.equal(learned(codes), learned.embedding.weight[codes])


@pytest.mark.parametrize("width", [0, 2])
def test_batches_of_one_code_look_alike(width):
    batch_index = drawn(BatchEmbedding([0, 1, 0, 1], width))
    vectors = batch_index(torch.arange(4))
    assert vectors.shape == (4, 2)
    assert torch.equal(vectors[:2], vectors[2:])
    assert not torch.equal(vectors[0], vectors[1])
