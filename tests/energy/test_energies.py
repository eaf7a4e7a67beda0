"""Energies: initial laws, gradients, compositions against their definitions, the low-rank form against tables."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from rl_contrastive.energy.energies import (
    MLP,
    ConvConfig,
    ConvEnergy,
    MixtureEnergy,
    MLPConfig,
    MLPEnergy,
    Product,
    tilted,
)
from rl_contrastive.energy.low_rank import LowRankConditional, TableFactor
from rl_contrastive.energy.noise import Gaussian
from rl_contrastive.energy.partition import Importance, Quadrature, log_partition
from rl_contrastive.energy.samplers import mala
from rl_contrastive.errors import RlcError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(mean: float, variance: float = 1.0) -> Gaussian:
    return Gaussian(torch.tensor([mean], dtype=torch.float64), torch.tensor([[variance]], dtype=torch.float64))


def makers() -> dict[str, Callable[[torch.Generator], nn.Module]]:
    return {
        "mlp": lambda rng: MLPEnergy(16, MLPConfig((20, 20)), rng=rng),
        "mlp default": lambda rng: MLPEnergy(16, MLPConfig((20,), first="default", activation="tanh"), rng=rng),
        "conv": lambda rng: ConvEnergy((1, 4, 4), ConvConfig((5, 6), 7), rng=rng),
    }


@pytest.mark.parametrize("name", makers())
def test_a_network_is_an_energy(name: str) -> None:
    """Shapes with leading axes, rows that do not see each other, the same bytes from the same seed, gradients."""
    f = makers()[name](generator(1))
    x = torch.randn(3, 5, 16, generator=generator())
    assert f(x).shape == (3, 5)
    torch.testing.assert_close(f(x)[1, 2:4], f(x[1, 2:4]))
    torch.testing.assert_close(f(x), f(x.double()).float())
    again, other = makers()[name](generator(1)), makers()[name](generator(2))
    assert f(x).detach().numpy().tobytes() == again(x).detach().numpy().tobytes()
    assert not torch.equal(f(x), other(x))
    wide = f.double()
    inputs = x[0, :2].double().requires_grad_()
    assert torch.autograd.gradcheck(wide, (inputs,))
    assert torch.autograd.gradgradcheck(wide, (inputs,))  # score matching differentiates twice
    wide(inputs).sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in wide.parameters())


def test_no_network_touches_the_global_generator() -> None:
    before = torch.get_rng_state()
    for make in makers().values():
        make(generator())
    TableFactor(3, 2, rng=generator())
    assert torch.equal(before, torch.get_rng_state())


def test_initial_weights_follow_the_config() -> None:
    first = (
        MLP(2, 1, MLPConfig((4000, 50), first_scale=2.5, first_bias=3.0), rng=generator())
        .requires_grad_(False)
        .layers[0]
    )
    assert float(first.weight.std()) == pytest.approx(2.5, rel=0.03)
    assert float(first.bias.abs().max()) <= 3.0
    assert float(first.bias.std()) == pytest.approx(3.0 / math.sqrt(3.0), rel=0.05)
    plain = MLP(25, 1, MLPConfig((2000, 50), first="default"), rng=generator()).requires_grad_(False)
    for layer, fan_in in zip(plain.layers, (25, 2000), strict=True):
        assert float(layer.weight.abs().max()) <= 1 / math.sqrt(fan_in)
        assert float(layer.weight.std()) == pytest.approx(1 / math.sqrt(3 * fan_in), rel=0.05)
    assert plain.head.bias is None


def test_the_first_layer_sees_eight_modes_on_a_ring_and_the_default_one_does_not() -> None:
    """Why default networks sit on the ring: their features have next to no 8th harmonic along it."""

    def eighth_harmonic(first: str) -> float:
        net = MLP(2, 1, MLPConfig((2000,), first=first), rng=generator()).double()  # type: ignore[arg-type]
        angle = 2 * math.pi * torch.arange(64, dtype=torch.float64) / 64
        ring = 1.4 * torch.stack([angle.cos(), angle.sin()], dim=1)
        features = nn.functional.silu(net.layers[0](ring)).detach()  # (64, 2000)
        power = torch.fft.rfft(features, dim=0).abs().square().sum(1)
        return float(power[8] / power[1:].sum())

    assert eighth_harmonic("default") < 1e-9
    assert eighth_harmonic("features") > 1e-6


def test_standardised_inputs() -> None:
    x = torch.randn(400, 2, generator=generator()) * torch.tensor([100.0, 0.01]) + torch.tensor([500.0, -3.0])
    f = MLPEnergy.for_data(x, rng=generator(1))
    plain = MLPEnergy(2, rng=generator(1))
    torch.testing.assert_close(f(x), plain((x - x.mean(0)) / x.std(0, correction=0)), rtol=1e-3, atol=1e-3)
    constant = torch.cat([x, torch.ones(400, 1)], dim=1)
    assert bool(torch.isfinite(MLPEnergy.for_data(constant, rng=generator())(constant)).all())
    saved = f.state_dict()
    assert {"centre", "scale"} <= set(saved)
    other = MLPEnergy(2, rng=generator(9))
    other.load_state_dict(saved)
    assert torch.equal(other(x), f(x))


def test_an_mlp_learns_a_density_with_the_exact_likelihood() -> None:
    """Two bumps at -2 and 2; the negative control is the zero network, i.e. the noise law."""
    centres = torch.where(torch.arange(400)[:, None] < 200, -2.0, 2.0)
    x = centres + 0.5 * torch.randn(400, 1, generator=generator())
    q = Gaussian.fit(x)
    f = tilted(q, MLPEnergy.for_data(x, MLPConfig((32,), zero_output=True), rng=generator()))
    assert float(log_partition(f, Importance(200), q=q, rng=generator()).log_z) == 0.0  # starts at q itself
    nodes = torch.linspace(-8.0, 8.0, 321)[:, None]

    def nll() -> torch.Tensor:
        return torch.logsumexp(f(nodes), 0) + math.log(0.05) - f(x).mean()

    before = nll().item()
    optimiser = torch.optim.Adam(f.parameters(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        nll().backward()
        optimiser.step()
    entropy = 0.5 * math.log(2 * math.pi * math.e * 0.25) + math.log(2.0)  # of the data's law
    assert before > entropy + 0.5
    assert nll().item() < entropy + 0.08


# --- composition


def test_product_of_gaussians() -> None:
    """N(0, 1)^1 N(3, 2)^2: precision 1 + 2/2 = 2, mean (0 + 2 * 3/2) / 2 = 1.5."""
    f = Product([normal(0.0).log_prob, normal(3.0, 2.0).log_prob], [1.0, 2.0])
    x = torch.linspace(-2, 4, 9, dtype=torch.float64)[:, None]
    difference = f(x) - normal(1.5, 0.5).log_prob(x)
    assert float(difference.std()) < 1e-12
    z = mala(f, torch.zeros(5000, 1, dtype=torch.float64), steps=40, step_size=0.5, rng=generator()).x
    assert float(z.mean()) == pytest.approx(1.5, abs=0.05)
    assert float(z.var()) == pytest.approx(0.5, abs=0.05)


def test_mixture_of_energies_weighs_by_w_times_Z() -> None:
    """exp(f_1) = 2 N(-3, 1) and exp(f_2) = N(3, 1) with w = (1, 2): equal shares, Z = 4."""
    f = MixtureEnergy([lambda x: normal(-3.0).log_prob(x) + math.log(2.0), normal(3.0).log_prob], [1.0, 2.0])
    x = torch.tensor([[-3.0], [0.0], [2.0]], dtype=torch.float64)
    direct = 2.0 * normal(-3.0).log_prob(x).exp() + 2.0 * normal(3.0).log_prob(x).exp()
    np.testing.assert_allclose(f(x).exp(), direct, rtol=1e-12)
    found = log_partition(f, Quadrature((-12.0,), (12.0,), 401), like=x)
    assert float(found.log_z) == pytest.approx(math.log(4.0), abs=1e-9)


def test_parts_are_trained_with_the_whole_and_laws_are_not() -> None:
    g = MLPEnergy(1, MLPConfig((4,)), rng=generator())
    own = {name for name, _ in g.named_parameters()}
    for whole in (tilted(normal(0.0), g), MixtureEnergy([g, normal(0.0).log_prob], [1.0, 1.0])):
        assert len(list(whole.parameters())) == len(own)
        before = whole(torch.ones(1, 1)).item()
        restored = type(whole).state_dict(whole)
        with torch.no_grad():
            g.net.head.weight += 1.0
        assert whole(torch.ones(1, 1)).item() != before
        whole.load_state_dict(restored)


def test_density_zero_stays_zero_in_a_product() -> None:
    def half(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[..., 0] > 0, 0.0, -math.inf)

    f = Product([half, normal(0.0).log_prob])
    assert f(torch.tensor([[-1.0]], dtype=torch.float64)).item() == -math.inf
    found = log_partition(f, Importance(40_000), q=normal(0.0, 2.0), rng=generator())
    assert float(found.log_z) == pytest.approx(math.log(0.5), abs=0.02)


# --- low rank


def tables() -> tuple[LowRankConditional, np.ndarray, np.ndarray, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A model of 5 contexts, 4 outcomes and d = 3, its phi (5, 3), psi (4, 3), the indices and a law q (4,)."""
    model = LowRankConditional(
        TableFactor(5, 3, rng=generator(), spread=1.0), TableFactor(4, 3, rng=generator(1), spread=1.0)
    )
    phi, psi = (f.table.detach().double().exp().numpy() for f in (model.phi, model.psi))
    return model, phi, psi, torch.arange(5), torch.arange(4), torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)


def test_scores_and_partitions_against_explicit_tables() -> None:
    model, phi, psi, x, y, q = tables()
    table = phi @ psi.T
    np.testing.assert_allclose(model.pairs(x, y).exp().detach(), table, rtol=1e-12)
    np.testing.assert_allclose(model.rows(x[:4], y).exp().detach(), table[range(4), range(4)], rtol=1e-12)
    np.testing.assert_allclose(model.given(x[2:3])(y).exp().detach(), table[2], rtol=1e-12)
    log_u = model.log_mean_psi(y, q)
    np.testing.assert_allclose(log_u.exp().detach(), q.numpy() @ psi, rtol=1e-12)
    Z = table @ q.numpy()
    np.testing.assert_allclose(model.log_partition(x, log_u).exp().detach(), Z, rtol=1e-12)


def test_the_normalised_model_is_linear_and_sums_to_one() -> None:
    model, phi, psi, x, y, q = tables()
    linear = model.log_linear_phi(x, model.log_mean_psi(y, q)).exp().detach().numpy()
    P = q.numpy() * (linear @ psi.T)  # (5, 4)
    np.testing.assert_allclose(P.sum(1), 1.0, rtol=1e-12)
    direct = q.numpy() * (phi @ psi.T)
    np.testing.assert_allclose(P, direct / direct.sum(1, keepdims=True), rtol=1e-12)
    # The negative control: with the mean of another law the rows do not sum to 1.
    off = q.numpy() * (model.log_linear_phi(x, model.log_mean_psi(y)).exp().detach().numpy() @ psi.T)
    assert np.abs(off.sum(1) - 1.0).max() > 0.01


def test_sampled_outcomes_tend_to_the_exact_mean() -> None:
    model, _, _, _, y, q = tables()
    draws = torch.multinomial(q, 40_000, replacement=True, generator=generator(3))
    np.testing.assert_allclose(
        model.log_mean_psi(draws).exp().detach(), model.log_mean_psi(y, q).exp().detach(), rtol=0.03
    )


def test_low_rank_with_networks_against_quadrature() -> None:
    """Continuous outcomes: <u, phi(x)> is the integral of q exp(f) for each context."""
    rng = generator()
    model = LowRankConditional(MLP(2, 3, MLPConfig((8,)), rng=rng), MLP(1, 3, MLPConfig((8,)), rng=rng))
    q, contexts = normal(0.5), torch.randn(4, 2, generator=rng)
    z = q.sample(100_000, rng=rng)
    estimated = model.log_partition(contexts, model.log_mean_psi(z))
    for i in range(4):
        f = tilted(q, model.given(contexts[i : i + 1]))
        exact = log_partition(f, Quadrature((-8.0,), (8.0,), 801), like=z).log_z
        assert float(estimated[i].detach()) == pytest.approx(float(exact), abs=0.02)


def test_factors_of_any_size() -> None:
    model, *_, x, y, q = tables()
    with torch.no_grad():
        model.phi.table += 3000.0  # type: ignore[operator, union-attr]
        model.psi.table[:, 0] -= 5000.0  # type: ignore[index, union-attr]
    scores = model.pairs(x, y)
    assert bool(torch.isfinite(scores).all())
    scores.sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)
    Z = model.log_partition(x, model.log_mean_psi(y, q))
    np.testing.assert_allclose(torch.logsumexp(scores + q.log(), 1).detach(), Z.detach(), rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: MLPConfig(hidden=()), "hidden must hold at least one width"),
        (lambda: MLPConfig(activation="relu"), "activation must be one of"),  # type: ignore[arg-type]
        (lambda: MLPEnergy(2, rng=generator())(torch.zeros(4, 3)), r"x must be \(\.\.\., 2\)"),
        (lambda: ConvEnergy((1, 4, 4), rng=generator())(torch.zeros(2, 15)), r"x must be \(\.\.\., 16\)"),
        (lambda: Product([]), "at least one"),
        (lambda: MixtureEnergy([torch.sum], [0.0]), "weights must be > 0"),
        (lambda: TableFactor(3, 2, rng=generator())(torch.tensor([3])), "integers in 0 .. 2"),
        (lambda: tables()[0].rows(torch.arange(3), torch.arange(2)), "as many contexts as outcomes"),
        (lambda: tables()[0].given(torch.arange(2)), "give one context, got 2"),
        (lambda: tables()[0].log_mean_psi(torch.arange(2), torch.tensor([0.9, 0.9])), "sum to 1"),
    ],
)
def test_wrong_input_is_named(make: Callable[[], object], sentence: str) -> None:
    with pytest.raises(RlcError, match=sentence):
        make()
