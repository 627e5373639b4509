import pytest
import torch

from sc_vaenb.model.network import ACTIVATIONS, MLP, NORMS, Condition


def test_side_inputs_are_the_same_as_concatenated_ones():
    mlp = MLP(5, 3, (8,), 2, "relu", "none", 0.0)
    x, a, b = torch.randn(4, 5), torch.randn(4, 2), torch.randn(4, 1)
    weight = torch.cat([mlp.first.weight, mlp.side.weight], 1)
    hidden = torch.relu(torch.cat([x, a, b], 1) @ weight.T + mlp.first.bias)
    torch.testing.assert_close(mlp(x, [a, b]), hidden @ mlp.output.weight.T + mlp.output.bias)


def test_without_hidden_layers_it_is_linear():
    mlp = MLP(5, 0, (), 2, "gelu", "layer", 0.5)
    assert mlp.output is mlp.first
    x, y = torch.randn(2, 4, 5)
    torch.testing.assert_close(mlp(x, []) + mlp(y, []) - mlp.first.bias, mlp(x + y, []))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("norm", NORMS)
def test_widths_norms_and_activations_come_in_order(activation, norm):
    mlp = MLP(5, 0, (8, 6), 2, activation, norm, 0.25)
    kinds = [type(layer) for layer in mlp.rest]
    block = [type(NORMS[norm](1)), type(ACTIVATIONS[activation]()), torch.nn.Dropout, torch.nn.Linear]
    assert kinds == block * 2
    assert [layer.out_features for layer in mlp.modules() if isinstance(layer, torch.nn.Linear)] == [8, 6, 2]
    assert all(layer.p == 0.25 for layer in mlp.modules() if isinstance(layer, torch.nn.Dropout))


def test_the_condition_is_onehot_or_learned():
    codes = torch.tensor([2, 0])
    assert Condition(range(3), 0)(codes).tolist() == [[0, 0, 1], [1, 0, 0]]
    learned = Condition(range(3), 2)
    assert torch.equal(learned(codes), learned.embedding.weight[codes])


@pytest.mark.parametrize("width", [0, 2])
def test_batches_of_one_code_look_alike(width):
    condition = Condition([0, 1, 0, 1], width)
    vectors = condition(torch.arange(4))
    assert vectors.shape == (4, 2)
    assert torch.equal(vectors[:2], vectors[2:])
    assert not torch.equal(vectors[0], vectors[1])
