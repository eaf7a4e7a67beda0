"""Noisy layers: the formula by hand, mean and variance over draws, and the plain layer when they are quiet."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from rl_contrastive.deep.networks import QHead, linear
from rl_contrastive.deep.noisy import NoisyLinear, add_noise, mean_noise, resample
from rl_contrastive.deep.weights import frozen_copy, load_weights, weights
from rl_contrastive.errors import RlcError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain(p: int = 5, q: int = 3) -> nn.Linear:
    layer = linear(p, q, gain=1.0, init="he", rng=generator(1))
    with torch.no_grad():
        layer.bias.copy_(torch.arange(q))
    return layer


def test_the_formula_by_hand() -> None:
    layer = NoisyLinear(linear(2, 1, gain=1.0, init="he", rng=generator()), sigma=0.5)
    start = 0.5 / np.sqrt(2)
    assert layer.weight_scale.detach().numpy() == pytest.approx(np.full((1, 2), start))
    assert layer.bias_scale.detach().numpy() == pytest.approx(np.full(1, start))
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, 2.0]]))
        layer.bias.copy_(torch.tensor([0.5]))
        layer.weight_scale.copy_(torch.tensor([[0.1, 0.2]]))
        layer.bias_scale.copy_(torch.tensor([0.3]))
    layer.resample(rng=generator(3))
    g = generator(3)
    first, second = torch.randn(2, generator=g), torch.randn(1, generator=g)
    c, e = (torch.sign(x) * x.abs().sqrt() for x in (first, second))
    # W + S * (e c') = (1 + .1 e c_1, 2 + .2 e c_2), b + s e; at x = (3, -1).
    expected = (1 + 0.1 * e * c[0]) * 3 - (2 + 0.2 * e * c[1]) + 0.5 + 0.3 * e
    assert layer(torch.tensor([[3.0, -1.0]])).item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_quiet_layer_is_the_plain_one_to_the_bit() -> None:
    x = torch.randn((7, 5), generator=generator(2))
    reference = plain()(x)
    layer = NoisyLinear(plain(), sigma=0.5)
    assert torch.equal(layer(x), reference)  # before the first draw
    layer.resample(rng=generator())
    assert not torch.allclose(layer(x), reference)
    mean_noise(layer)
    assert torch.equal(layer(x), reference)


def test_mean_and_variance_over_draws() -> None:
    """k = E f(x)^2 = E|x| = sqrt(2/pi): Var y_j = k (k sum_i (S_ji x_i)^2 + s_j^2); outputs are uncorrelated."""
    layer, g = NoisyLinear(plain(), sigma=2.0), generator(4)
    x = torch.tensor([[1.0, -2.0, 0.5, 3.0, 0.0]])
    draws = []
    for _ in range(4000):
        layer.resample(rng=g)
        draws.append(layer(x)[0].detach())
    y = torch.stack(draws).double().numpy()
    variance = layer.weight_scale[0, 0].item() ** 2 * (2 / np.pi * x.square().sum().item() + np.sqrt(2 / np.pi))
    mean_noise(layer)
    np.testing.assert_allclose(y.mean(0), layer(x)[0].detach().numpy(), atol=5 * np.sqrt(variance / 4000))
    np.testing.assert_allclose(y.var(0), variance, rtol=0.15)
    assert np.abs(np.corrcoef(y.T) - np.eye(3)).max() < 0.08  # 5 / sqrt(4000)


def test_noise_is_one_draw_for_a_batch_and_comes_from_the_generator_given() -> None:
    before = torch.get_rng_state()
    layer, twin = NoisyLinear(plain(), sigma=0.5), NoisyLinear(plain(), sigma=0.5)
    x = torch.randn((1, 5), generator=generator(2)).expand(4, 5)
    layer.resample(rng=generator(7))
    twin.resample(rng=generator(7))
    assert torch.equal(layer(x), twin(x))
    assert torch.equal(layer(x), layer(x)[:1].expand(4, 3))
    twin.resample(rng=generator(8))
    assert not torch.equal(layer(x), twin(x))
    assert torch.equal(torch.get_rng_state(), before)


def test_means_and_scales_get_their_gradients() -> None:
    """d y / d S_ji = e_j c_i x_i and d y / d s_j = e_j."""
    layer = NoisyLinear(plain(2, 1), sigma=0.5)
    layer.resample(rng=generator(5))
    x = torch.tensor([[2.0, -3.0]])
    layer(x).sum().backward()
    assert torch.equal(layer.weight.grad, x)
    assert torch.allclose(layer.weight_scale.grad, layer.e[:, None] * layer.c * x)
    assert torch.allclose(layer.bias_scale.grad, layer.e)
    layer.zero_grad()
    mean_noise(layer)
    layer(x).sum().backward()
    assert layer.weight_scale.grad is None


def test_every_layer_of_a_head_becomes_noisy_with_noise_of_its_own() -> None:
    def head() -> QHead:
        return QHead(6, 2, rng=generator(1), dueling=True, hidden=6, gain=1.0)

    reference, noisy = head(), head()
    add_noise(noisy, 0.5)
    z = torch.rand((4, 6), generator=generator(2))
    assert torch.equal(noisy(z), reference(z))
    assert not any(isinstance(layer, nn.Linear) for layer in noisy.modules())
    layers = [layer for layer in noisy.modules() if isinstance(layer, NoisyLinear)]
    assert len(layers) >= 2
    target = frozen_copy(noisy)
    resample(noisy, target, rng=generator(3))
    assert not torch.equal(layers[0].c, layers[1].c)
    assert not torch.equal(noisy(z), target(z))
    mean_noise(noisy, target)
    assert torch.equal(noisy(z), target(z))


def test_the_saved_state_has_scales_and_no_noise() -> None:
    layer, other = NoisyLinear(plain(), sigma=0.5), NoisyLinear(plain(), sigma=0.1)
    layer.resample(rng=generator(1))
    saved = weights(layer)
    assert set(saved) == {"weight", "bias", "weight_scale", "bias_scale"}
    load_weights(other, saved, "test")
    assert torch.equal(other.weight_scale, layer.weight_scale)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("inf")])
def test_bad_scales_are_sentences(sigma: float) -> None:
    with pytest.raises(RlcError, match="noisy: sigma must be > 0"):
        NoisyLinear(plain(), sigma)
