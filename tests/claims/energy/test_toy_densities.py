"""Toy densities: samples and log-densities belong together, and each log-density is exact."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rl_contrastive.claims.energy.toy_densities import DENSITIES, Checkerboard, Pinwheel, Spirals, make_density
from rl_contrastive.energy.partition import Quadrature, log_partition
from rl_contrastive.errors import RlcError


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cells(x: Tensor) -> Tensor:
    """Number of points in each of 20 x 20 squares of [-5, 5]^2."""
    index = ((x + 5.0) * 2.0).floor().long()
    return torch.bincount(index[:, 0] * 20 + index[:, 1], minlength=400)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.long) if n == "spirals" else n for n in sorted(DENSITIES)]
)
def test_samples_follow_the_density(name: str) -> None:
    """Counts in 400 squares against the integral of exp(log_prob) over each (5 x 5 midpoints): a chi-square test."""
    law = make_density(name)
    n = 40_000
    x = law.sample(n, rng=gen(1))
    assert (x.shape, x.dtype) == ((n, 2), torch.float32)
    assert bool((x.abs() < 5.0).all())
    axis = -4.95 + 0.1 * torch.arange(100, dtype=torch.float64)  # midpoints
    p = law.log_prob(torch.cartesian_prod(axis, axis)).exp().reshape(20, 5, 20, 5).sum((1, 3)).reshape(-1) * 0.01
    assert float(p.sum()) == pytest.approx(1.0, abs=2e-3)
    expected = n * p

    def statistic(counts: Tensor) -> float:
        """Sum over squares with >= 10 expected points of (count - expected)^2 / expected, in standard deviations."""
        many = expected >= 10
        chi = ((counts - expected)[many].square() / expected[many]).sum()
        k = int(many.sum())
        return float((chi - k) / math.sqrt(2 * k))

    assert statistic(cells(x)) < 5.0
    assert statistic(cells(1.05 * x)) > 20.0  # control: another law


@pytest.mark.long
def test_every_density_integrates_to_one() -> None:
    like = torch.zeros(0, dtype=torch.float64)
    for name, points, tolerance in (
        ("8gaussians", 201, 1e-9), ("pinwheel", 301, 1e-6), ("spirals", 61, 5e-3), ("checkerboard", 401, 6e-3),
    ):  # fmt: skip
        box = Quadrature((-6.0, -6.0), (6.0, 6.0), points)
        assert abs(float(log_partition(make_density(name).log_prob, box, like=like).log_z)) < tolerance, name


def test_eight_gaussians_by_hand() -> None:
    """At a mode: (1/8) / (2 pi / 8) and nothing else within e^-16; the law is invariant under a turn by 45 degrees."""
    law = make_density("8gaussians")
    mode = torch.tensor([[math.sqrt(8.0), 0.0]], dtype=torch.float64)
    assert float(law.log_prob(mode)) == pytest.approx(-math.log(2 * math.pi), abs=1e-6)
    x = law.sample(50, rng=gen(0)).double()
    turn = torch.tensor([[1.0, -1.0], [1.0, 1.0]], dtype=torch.float64) / math.sqrt(2.0)
    assert torch.allclose(law.log_prob(x), law.log_prob(x @ turn), atol=1e-5)


def test_the_checkerboard_by_hand() -> None:
    x = torch.tensor([[-3.0, -3.0], [-1.0, -3.0], [1.0, -3.0], [3.0, 3.9], [-3.0, 3.0], [5.0, 5.0]])
    inside = torch.isfinite(Checkerboard().log_prob(x))
    assert inside.tolist() == [True, False, True, True, False, False]
    assert float(Checkerboard().log_prob(x[0])) == pytest.approx(-math.log(32.0))
    assert bool(torch.isfinite(Checkerboard().log_prob(Checkerboard().sample(2000, rng=gen(0)))).all())


def test_the_spirals_density_is_a_mean_over_its_latents() -> None:
    """Against plain Monte Carlo: p(x) = E over (sign, u, U) of N(x; centre, 1/100)."""
    g, law = gen(3), Spirals()
    s = 3.0 * math.pi * torch.rand(400_000, 1, generator=g, dtype=torch.float64).sqrt()
    centres = (torch.cat([-s * s.cos(), s * s.sin()], -1) + 0.5 * torch.rand(len(s), 2, generator=g)) / 3.0
    centres = centres * (2.0 * torch.randint(0, 2, (len(s), 1), generator=g) - 1.0)
    for x in law.sample(5, rng=gen(4)).double():
        near = torch.exp(-50.0 * (x - centres).square().sum(-1)) / (2 * math.pi * 0.01)
        sem = float(near.std()) / math.sqrt(len(s))
        assert float(law.log_prob(x[None]).exp()) == pytest.approx(float(near.mean()), abs=4.0 * sem)
    far = law.log_prob(torch.tensor([[12.0, 12.0]]))
    assert bool(torch.isfinite(far).all())
    assert float(far) < -2000.0
    x = law.sample(200, rng=gen(5))
    error = (law.log_prob(x) - Spirals(nodes=4000).log_prob(x)).abs()
    assert float(error.mean()) < 1e-4
    assert float(error.max()) < 5e-3  # at the outer end of an arm
    assert torch.allclose(law.log_prob(x), law.log_prob(-x))


def test_pinwheel_at_a_known_root() -> None:
    """r = 1, t = 0 of blade 0 lies at 2 (cos a, -sin a), a = e/4; only this root counts there."""
    a = math.e / 4.0
    x = torch.tensor([[2.0 * math.cos(a), -2.0 * math.sin(a)]], dtype=torch.float64)
    expected = -math.log(2 * math.pi * 0.3 * 0.1) - math.log(20.0)
    assert float(Pinwheel().log_prob(x)) == pytest.approx(expected, abs=1e-8)
    turn = 2.0 * math.pi / 5.0
    rotation = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]], dtype=torch.float64)
    y = Pinwheel().sample(50, rng=gen(0)).double()
    assert torch.allclose(Pinwheel().log_prob(y), Pinwheel().log_prob(y @ rotation), atol=1e-8)
    assert float(Pinwheel().log_prob(torch.tensor([[9.0, 9.0]]))) < -300.0


def test_an_unknown_density_is_a_sentence() -> None:
    with pytest.raises(RlcError, match="did you mean 'spirals'"):
        make_density("spiral")


def test_the_moons_by_hand() -> None:
    """Half a turn takes one arc to the other; far from the ends, across an arc, the law is a Gaussian of width 1/5."""
    law = make_density("moons")
    x = law.sample(50, rng=gen(0)).double()
    assert torch.allclose(law.log_prob(x), law.log_prob(-x), atol=1e-9)
    on, beside = (torch.tensor([[-1.0, r - 0.5]], dtype=torch.float64) for r in (2.0, 2.2))  # the top of the upper arc
    assert float(law.log_prob(on)) == pytest.approx(-math.log(4 * math.pi * 0.2 * math.sqrt(2 * math.pi)), abs=0.01)
    assert float(law.log_prob(on) - law.log_prob(beside)) == pytest.approx(0.5, abs=0.06)
