"""Samplers against laws that are known: what leaves them invariant, what does not, and what breaks loudly."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rl_contrastive.energy.noise import Gaussian, Uniform
from rl_contrastive.energy.samplers import (
    Annealed,
    ChainConfig,
    anneal,
    langevin,
    langevin_step,
    mala,
    mala_step,
    position,
    resample,
    run_chains,
    systematic,
)
from rl_contrastive.errors import RlcError

NORMAL = Gaussian(torch.zeros(1, dtype=torch.float64), torch.eye(1, dtype=torch.float64))
CORRELATED = Gaussian(
    torch.tensor([1.0, -2.0], dtype=torch.float64), torch.tensor([[2.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unnormalised(x: torch.Tensor) -> torch.Tensor:
    return 5.0 + CORRELATED.log_prob(x)


def quartic(x: torch.Tensor) -> torch.Tensor:
    """Double well exp(-(x^2 - 1)^2)."""
    return -(x.square() - 1.0).square().sum(-1)


def test_position_by_hand() -> None:
    at = position(quartic, torch.tensor([[0.5], [2.0]], dtype=torch.float64))
    assert at.f.tolist() == [-0.5625, -9.0]
    assert at.grad.squeeze(-1).tolist() == [1.5, -24.0]  # -4 x (x^2 - 1)
    short = position(quartic, torch.tensor([[0.5], [2.0]], dtype=torch.float64), max_grad=3.0)
    assert short.grad.squeeze(-1).tolist() == [1.5, -3.0]


def test_parameters_get_no_gradient_from_a_chain() -> None:
    weight = torch.nn.Parameter(torch.ones(()))
    run_chains(lambda x: -weight * x.square().sum(-1), torch.zeros(4, 2), ChainConfig(steps=2), rng=generator())
    assert weight.grad is None


def test_mala_ratio_by_hand() -> None:
    """On N(0, 1) with h = 1: mu(x) = x/2, so the ratio is (x^2 - x'^2)/2 + ((x' - x/2)^2 - (x - x'/2)^2)/2."""
    step, trials = torch.tensor(1.0, dtype=torch.float64), 40_000
    start = torch.full((trials, 1), 1.5, dtype=torch.float64)
    at = position(NORMAL.log_prob, start)
    proposed = langevin_step(NORMAL.log_prob, at, step, rng=generator(3)).x
    moved, accepted = mala_step(NORMAL.log_prob, at, step, rng=generator(3))
    x, y = start.squeeze(-1), proposed.squeeze(-1)
    ratio = ((x**2 - y**2) / 2 + ((y - x / 2) ** 2 - (x - y / 2) ** 2) / 2).exp().clamp_max(1.0)
    assert float(accepted.double().mean()) == pytest.approx(float(ratio.mean()), abs=4 * 0.5 / math.sqrt(trials))
    assert torch.equal(moved.x, torch.where(accepted[:, None], proposed, start))
    assert bool(accepted[ratio == 1.0].all())


def test_mala_leaves_a_gaussian_invariant_and_unadjusted_langevin_does_not() -> None:
    """Chains start in the law itself. Unadjusted on N(0, 1): x' = (1 - h/2) x + sqrt(h) e has variance 1/(1 - h/4)."""
    n, h = 20_000, 1.6
    start = NORMAL.sample(n, rng=generator())
    exact = mala(NORMAL.log_prob, start, steps=30, step_size=h, rng=generator(1))
    z = exact.x.squeeze(-1).numpy()
    assert stats.kstest(z, stats.norm().cdf).pvalue > 1e-3
    assert z.mean() == pytest.approx(0.0, abs=4 / math.sqrt(n))
    assert z.var() == pytest.approx(1.0, abs=4 * math.sqrt(2 / n))
    assert 0.3 < float(exact.acceptance) < 0.9
    biased = langevin(NORMAL.log_prob, start, steps=30, step_size=h, rng=generator(1)).squeeze(-1).numpy()
    assert biased.var() == pytest.approx(1.0 / (1.0 - h / 4.0), rel=0.05)
    assert stats.kstest(biased, stats.norm().cdf).pvalue < 1e-6
    small = langevin(NORMAL.log_prob, start, steps=30, step_size=0.02, rng=generator(1)).squeeze(-1).numpy()
    assert small.var() == pytest.approx(1.0, abs=4 * math.sqrt(2 / n))


def test_mala_finds_a_correlated_gaussian_from_afar() -> None:
    start = torch.full((4000, 2), 6.0, dtype=torch.float64)
    z = run_chains(unnormalised, start, ChainConfig(steps=150, step_size=0.5), rng=generator()).x
    np.testing.assert_allclose(z.mean(0), CORRELATED.mean, atol=0.1)
    np.testing.assert_allclose(z.T.cov(), CORRELATED.covariance, atol=0.12)


def test_mala_turns_a_gaussian_into_a_double_well() -> None:
    start = torch.randn(5000, 1, generator=generator(), dtype=torch.float64)
    z = mala(quartic, start, steps=60, step_size=0.4, rng=generator(1)).x.squeeze(-1).numpy()
    axis = np.linspace(-4, 4, 8001)
    density = np.exp(-((axis**2 - 1) ** 2))
    cdf = np.cumsum(density) / density.sum()
    assert stats.kstest(z, lambda v: np.interp(v, axis, cdf)).pvalue > 1e-3
    assert stats.kstest(start.squeeze(-1).numpy(), lambda v: np.interp(v, axis, cdf)).pvalue < 1e-6


def test_mala_stays_exact_with_short_gradients() -> None:
    start = NORMAL.sample(20_000, rng=generator())
    config = ChainConfig(steps=20, step_size=1.0, max_grad=0.3)
    z = run_chains(NORMAL.log_prob, start, config, rng=generator(1)).x.squeeze(-1).numpy()
    assert stats.kstest(z, stats.norm().cdf).pvalue > 1e-3


def test_mala_respects_the_edge_of_a_support() -> None:
    box = Uniform(torch.tensor([0.0, -1.0], dtype=torch.float64), torch.tensor([1.0, 1.0], dtype=torch.float64))
    z = mala(box.log_prob, box.sample(8000, rng=generator()), steps=40, step_size=0.1, rng=generator(1))
    assert float(z.acceptance) < 0.9
    assert stats.kstest(z.x[:, 0].numpy(), stats.uniform(0, 1).cdf).pvalue > 1e-3


def test_adaptation_reaches_its_acceptance_and_then_stops() -> None:
    start = torch.randn(200, 5, generator=generator(), dtype=torch.float64)
    sizes = []
    for initial in (1e-3, 30.0):
        config = ChainConfig(steps=300, step_size=initial, adapt=200)
        chains = run_chains(lambda x: -0.5 * x.square().sum(-1), start, config, rng=generator(1))
        assert float(chains.acceptance) == pytest.approx(0.574, abs=0.06)
        sizes.append(float(chains.step_size))
    assert sizes[0] == pytest.approx(sizes[1], rel=0.25)
    fixed = run_chains(lambda x: -0.5 * x.square().sum(-1), start, ChainConfig(steps=9, step_size=0.3), rng=generator())
    assert float(fixed.step_size) == pytest.approx(0.3)


def test_same_seed_same_bytes_and_leading_axes() -> None:
    start = torch.zeros(3, 5, 2)
    a, b = (run_chains(unnormalised, start, ChainConfig(steps=10), rng=generator(4)).x for _ in range(2))
    assert a.shape == (3, 5, 2)
    assert a.dtype == torch.float32
    assert a.numpy().tobytes() == b.numpy().tobytes()
    assert not torch.equal(a, run_chains(unnormalised, start, ChainConfig(steps=10), rng=generator(5)).x)


# --- resampling


def test_systematic_counts_by_hand() -> None:
    log_w = torch.tensor([0.1, 0.0, 0.2, 0.7], dtype=torch.float64).log() + 1000.0
    counts = torch.bincount(systematic(log_w, 10, rng=generator()), minlength=4)
    assert counts.tolist() == [1, 0, 2, 7]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=1, max_size=12), st.integers(1, 40), st.integers(0, 10**6))
def test_systematic_takes_floor_or_ceil(log_weights: list[float], n: int, seed: int) -> None:
    log_w = torch.tensor(log_weights, dtype=torch.float64)
    share = n * torch.softmax(log_w, 0)
    counts = torch.bincount(systematic(log_w, n, rng=generator(seed)), minlength=len(log_weights))
    assert int(counts.sum()) == n
    assert bool((counts >= (share - 1e-9).floor()).all())
    assert bool((counts <= (share + 1e-9).ceil()).all())


def test_systematic_is_unbiased() -> None:
    log_w = torch.tensor([0.5, 0.25, 0.15, 0.1], dtype=torch.float64).log()
    rng = generator()
    counts = torch.stack([torch.bincount(systematic(log_w, 3, rng=rng), minlength=4) for _ in range(4000)])
    np.testing.assert_allclose(counts.double().mean(0), [1.5, 0.75, 0.45, 0.3], atol=0.04)


def test_resampling_a_wide_law_gives_the_target_and_its_ess() -> None:
    wide = Gaussian(torch.zeros(1, dtype=torch.float64), 9.0 * torch.eye(1, dtype=torch.float64))
    shifted = lambda x: -0.5 * (x[..., 0] - 1.0).square()  # noqa: E731
    found = resample(shifted, wide, 3000, proposals=200_000, rng=generator())
    z = found.x.squeeze(-1).numpy()
    assert stats.kstest(z, stats.norm(1.0, 1.0).cdf).pvalue > 1e-3
    assert stats.kstest(wide.sample(3000, rng=generator()).squeeze(-1).numpy(), stats.norm(1.0, 1.0).cdf).pvalue < 1e-6
    # E w^2 / (E w)^2 for N(1,1) against N(0,9): int p^2/q = 9/sqrt(17) e^{1/17}.
    expected = 200_000 / (9 / math.sqrt(17) * math.exp(1 / 17))
    assert float(found.ess) == pytest.approx(expected, rel=0.02)


# --- annealing


def test_annealing_crosses_to_separated_modes() -> None:
    """Two modes of weights 1/4, 3/4 at -5 and 5: annealed weights restore the shares that plain chains freeze."""

    def modes(x: torch.Tensor) -> torch.Tensor:
        left = -0.5 * (x[..., 0] + 5.0).square() + math.log(0.25)
        right = -0.5 * (x[..., 0] - 5.0).square() + math.log(0.75)
        return torch.logaddexp(left, right)

    q = Gaussian(torch.zeros(1, dtype=torch.float64), 25.0 * torch.eye(1, dtype=torch.float64))
    ladder = [t / 40 for t in range(41)]
    run = anneal(modes, q, 4000, ChainConfig(steps=2, step_size=1.0), ladder=ladder, rng=generator())
    assert right_share(run) == pytest.approx(0.75, abs=0.05)
    assert len(run.acceptance) == 40
    chains = mala(modes, q.sample(4000, rng=generator()), steps=80, step_size=1.0, rng=generator(1)).x
    assert float((chains[:, 0] > 0).double().mean()) == pytest.approx(0.5, abs=0.05)  # the share of the start


def right_share(run: Annealed) -> float:
    return float((torch.softmax(run.log_w, 0) * (run.x[:, 0] > 0)).sum())


def test_annealing_onto_a_smaller_support() -> None:
    """Chains of weight 0 are no error: the half of q on the negative side is lost, and the rest is the half-normal."""

    def half(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[..., 0] > 0, NORMAL.log_prob(x), -math.inf)

    run = anneal(half, NORMAL, 4000, ChainConfig(steps=1, step_size=0.5), ladder=[0.0, 0.5, 1.0], rng=generator())
    alive = run.log_w > -math.inf
    assert float(run.log_w.exp().mean()) == pytest.approx(0.5, abs=0.03)
    assert bool((run.x[alive] > 0).all())


# --- errors


def test_a_broken_energy_is_an_error_and_not_a_rejection() -> None:
    def nan_above_two(x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[..., 0] > 2.0, math.nan, -0.5 * x.square().sum(-1))

    start = torch.zeros(500, 1)
    for kernel in ("mala", "langevin"):
        with pytest.raises(RlcError, match=r"of 500 chains met a NaN or infinite energy"):
            run_chains(nan_above_two, start, ChainConfig(kernel, 60, 0.5), rng=generator())  # type: ignore[arg-type]
    with pytest.raises(RlcError, match="smaller step size"):
        langevin(quartic, 3.0 * torch.ones(5, 1), steps=50, step_size=2.0, rng=generator())
    box = Uniform(torch.zeros(1), torch.ones(1))
    with pytest.raises(RlcError, match="where the density is positive"):
        mala(box.log_prob, torch.full((3, 1), 9.0), steps=5, step_size=0.01, rng=generator())


@pytest.mark.parametrize("kernel", ["langevin", "mala"])
def test_a_chain_that_recovers_from_a_broken_energy_is_found_too(kernel: str) -> None:
    calls = 0

    def broken_once(x: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        spoil = torch.zeros(len(x), dtype=x.dtype)
        spoil[0] = math.nan if calls == 3 else 0.0
        return spoil - 0.5 * x.square().sum(-1)

    with pytest.raises(RlcError, match="1 of 4 chains met a NaN"):
        run_chains(broken_once, torch.zeros(4, 1), ChainConfig(kernel, 20, 0.1), rng=generator())  # type: ignore[arg-type]


def test_wrong_input_is_named() -> None:
    with pytest.raises(RlcError, match="only mala can adapt"):
        ChainConfig("langevin", 10, 0.1, adapt=5)
    with pytest.raises(RlcError, match="step_size must be > 0"):
        ChainConfig(step_size=0.0)
    with pytest.raises(RlcError, match=r"f must map \(3, 1\) to \(3,\), got \(3, 1\)"):
        position(lambda x: x, torch.zeros(3, 1))
    with pytest.raises(RlcError, match="differentiable in x"):
        position(lambda x: torch.zeros(3), torch.zeros(3, 1))
    with pytest.raises(RlcError, match="rise strictly from 0 to 1"):
        anneal(quartic, NORMAL, 3, ChainConfig(), ladder=[0.0, 0.5, 0.5, 1.0], rng=generator())
    with pytest.raises(RlcError, match="adapt=0"):
        anneal(quartic, NORMAL, 3, ChainConfig(adapt=2), ladder=[0.0, 1.0], rng=generator())
    with pytest.raises(RlcError, match="not all -inf"):
        systematic(torch.full((3,), -math.inf), 2, rng=generator())
    with pytest.raises(RlcError, match="1 <= n <= proposals"):
        resample(quartic, NORMAL, 5, proposals=3, rng=generator())
