import torch
from torch.distributions import Normal, kl_divergence

from sc_vaenb.model.prior import PRIORS


def setup():
    generator = torch.Generator().manual_seed(0)
    mean, log_var = torch.randn(2, 7, 4, generator=generator)
    return mean, log_var, torch.tensor([0, 1, 2, 0, 1, 2, 0])


def test_kl_to_the_standard_normal():
    mean, log_var, batch_index = setup()
    expected = kl_divergence(Normal(mean, (0.5 * log_var).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(PRIORS["normal"](4, 3).kl(mean, log_var, batch_index), expected)


def test_kl_to_the_normal_of_each_batch():
    mean, log_var, batch_index = setup()
    prior = PRIORS["conditional"](4, 3)
    torch.testing.assert_close(
        prior.kl(mean, log_var, batch_index), PRIORS["normal"](4, 3).kl(mean, log_var, batch_index)
    )  # where it starts
    prior.mean.data.normal_()
    prior.log_var.data.normal_()
    p = Normal(prior.mean[batch_index], (0.5 * prior.log_var[batch_index]).exp())
    expected = kl_divergence(Normal(mean, (0.5 * log_var).exp()), p)
    torch.testing.assert_close(prior.kl(mean, log_var, batch_index), expected)
