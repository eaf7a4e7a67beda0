"""Energies of many noise levels: the loss by hand, exact scores of a blurred Gaussian, samples of a known law."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from rl_contrastive.energy.noise_levels import LevelConfig, LevelEnergy, at_level, descend_levels
from rl_contrastive.energy.samplers import position
from rl_contrastive.energy.score import DenoisingConfig, DenoisingScore, MultiLevelScore, NoiseLadder
from rl_contrastive.energy.trainer import TrainConfig, Trainer
from rl_contrastive.errors import RlcError

LADDER = NoiseLadder(low=0.2, high=2.0, count=4)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Blurred(nn.Module):
    """f(x, sigma) = -(x - mean)^2 / (2 (variance + know sigma^2)): exact if it knows the level."""

    def __init__(self, mean: float, variance: float, *, know: float = 1.0) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(mean, dtype=torch.float64))
        self.variance = nn.Parameter(torch.tensor(variance, dtype=torch.float64))
        self.know = know

    def forward(self, rows: Tensor) -> Tensor:
        level = self.variance + self.know * torch.exp(2.0 * rows[..., 1])
        return -0.5 * (rows[..., 0] - self.mean).square() / level


def surrogate(f: nn.Module, x: Tensor, ladder: NoiseLadder = LADDER, seed: int = 0) -> Tensor:
    objective = MultiLevelScore(ladder)
    return objective.loss(f, x, state=objective.initial_state(), rng=seeded(seed)).surrogate


def normal(n: int) -> Tensor:
    """Points of mean 1 and variance .25 exactly."""
    x = torch.randn(n, 1, generator=seeded(9), dtype=torch.float64)
    return 1.0 + 0.5 * (x - x.mean()) / x.std(correction=0)


def fitted(f: Blurred, x: Tensor) -> float:
    """The lowest loss on one draw of levels and noise."""
    optimiser = torch.optim.LBFGS(f.parameters(), max_iter=25, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = surrogate(f, x)
        loss.backward()
        return loss

    optimiser.step(closure)
    return float(surrogate(f, x).detach())


def test_ladder_is_geometric_from_high_to_low():
    assert NoiseLadder(0.1, 10.0, 3).log_levels().exp().tolist() == pytest.approx([10.0, 1.0, 0.1])
    with pytest.raises(RlcError, match="low < high"):
        NoiseLadder(1.0, 1.0)


def test_value_by_hand():
    """Two levels, drawn for each row: 1/2 mean (sigma s + e)^2 with s = -(x + sigma e - m)/(v + sigma^2)."""
    x, ladder = torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64), NoiseLadder(0.5, 2.0, 2)
    rng, expected = seeded(3), 0.0
    index = torch.randint(2, (3,), generator=rng)
    e = torch.randn(3, 1, generator=rng, dtype=torch.float64)
    for row, i, noise in zip(x[:, 0].tolist(), index.tolist(), e[:, 0].tolist(), strict=True):
        sigma = (2.0, 0.5)[i]
        expected += 0.5 * (-sigma * (row + sigma * noise - 0.3) / (0.7 + sigma**2) + noise) ** 2 / 3.0
    assert float(surrogate(Blurred(0.3, 0.7), x, ladder, seed=3).detach()) == pytest.approx(expected, abs=1e-12)
    assert set(index.tolist()) == {0, 1}


def test_levels_alike_it_is_the_loss_of_one_level():
    """An oracle for the mean of the loss: a ladder around .5 and `DenoisingScore` there, on the same points."""
    x, f = normal(20_000), Blurred(0.0, 0.4)
    one = DenoisingScore(DenoisingConfig(sigma=0.5))
    alone = one.loss(at_level(f, 0.5), x, state=one.initial_state(), rng=seeded()).surrogate
    ladder = NoiseLadder(0.4999, 0.5001, 2)
    assert float(surrogate(f, x, ladder).detach()) == pytest.approx(float(alone.detach()), rel=0.02)


def test_minimiser_is_the_exact_score_at_every_level():
    x, f = normal(20_000), Blurred(0.0, 1.0)
    lowest = fitted(f, x)
    assert float(f.mean.detach()) == pytest.approx(1.0, abs=0.02)
    assert float(f.variance.detach()) == pytest.approx(0.25, abs=0.02)
    # The loss of the truth is 1/2 mean_sigma v/(v + sigma^2).
    sigmas = LADDER.log_levels().exp()
    assert lowest == pytest.approx(float(0.5 * (0.25 / (0.25 + sigmas**2)).mean()), abs=0.01)
    for sigma in sigmas.tolist():
        points = torch.linspace(-1.0, 3.0, 9, dtype=torch.float64)[:, None]
        score = position(at_level(f, sigma), points).grad
        assert torch.allclose(score, (1.0 - points) / (0.25 + sigma**2), atol=0.25)


def test_an_energy_that_ignores_the_level_cannot_fit():
    """Negative control: one variance for all levels; the loss stays well above that of the truth."""
    x = normal(20_000)
    assert fitted(Blurred(0.0, 1.0, know=0.0), x) > fitted(Blurred(0.0, 1.0), x) + 0.05


@pytest.mark.long
def test_network_starts_at_the_gaussian_and_learns_what_is_not():
    """Two narrow modes: the Gaussian part alone cannot, the trained one gives both and little between."""
    sides = torch.where(torch.rand(2000, 1, generator=seeded(1)) < 0.5, -1.0, 1.0)
    x = torch.cat([sides + 0.1 * torch.randn(2000, 1, generator=seeded(2)),
                   0.5 * torch.randn(2000, 1, generator=seeded(3))], 1)  # fmt: skip
    ladder = NoiseLadder(0.05, 3.0, 30)
    f = LevelEnergy.for_data(x, LevelConfig(width=64, blocks=2), rng=seeded(4))
    rows = x[:5].requires_grad_()
    C = torch.cov(x.detach().T, correction=0) + 0.7**2 * torch.eye(2)
    (score,) = torch.autograd.grad(at_level(f, 0.7)(rows).sum(), rows)
    assert torch.allclose(score, -torch.linalg.solve(C, (rows - x.mean(0)).T).T, atol=1e-4)

    def between(g: nn.Module) -> tuple[float, float]:
        made = descend_levels(g, f.start(1000, 3.0, rng=seeded(5)), ladder, rng=seeded(6), corrections=1)
        return float((made[:, 0].abs() < 0.5).float().mean()), float((made[:, 0] > 0.0).float().mean())

    before, _ = between(f)
    config = TrainConfig(steps=250, batch_size=256, lr=5e-3, average=0.98, device="cpu")
    trainer = Trainer(f, MultiLevelScore(ladder), x.detach(), q=None, config=config, rng_seed=0)
    trainer.run()
    after, right = between(trainer.model)
    assert before > 0.25  # P(|N(0, 1)| < .5) = .38
    assert after < 0.05
    assert 0.4 < right < 0.6


def test_conditions_get_no_noise_and_are_not_scored():
    """f = -(x - c)^2/2 + 100 c: the score in x alone, at the c that the datum has."""
    rows = torch.tensor([[1.0, 3.0], [-2.0, 0.5]], dtype=torch.float64)
    objective, rng = MultiLevelScore(NoiseLadder(0.5, 2.0, 2), conditions=1), seeded(3)

    def f(r: Tensor) -> Tensor:
        return -0.5 * (r[..., 0] - r[..., 1]).square() + 100.0 * r[..., 1]

    value = objective.loss(f, rows, state=objective.initial_state(), rng=seeded(3)).surrogate
    sigma = torch.tensor([2.0, 0.5], dtype=torch.float64)[torch.randint(2, (2,), generator=rng)]
    e = torch.randn(2, 1, generator=rng, dtype=torch.float64)[:, 0]
    expected = 0.5 * (-sigma * (rows[:, 0] + sigma * e - rows[:, 1]) + e).square().mean()
    assert float(value.detach()) == pytest.approx(float(expected), abs=1e-12)
    with pytest.raises(RlcError, match="no datum is left"):
        objective.loss(f, rows[:, :1], state=objective.initial_state(), rng=seeded())


@pytest.mark.long
@pytest.mark.parametrize("told", [True, False])
def test_altered_data_change_the_law_only_of_a_network_that_is_not_told(told: bool):
    """Points near 0, half of them moved by up to 2: made with c = 0 they stay near 0, without c they do not."""
    n, ladder = 4000, NoiseLadder(0.05, 3.0, 25)
    moved = torch.where(
        torch.rand(n, 1, generator=seeded(1)) < 0.5, 4.0 * torch.rand(n, 1, generator=seeded(2)) - 2.0, 0
    )
    x = moved + 0.1 * torch.randn(n, 1, generator=seeded(3))
    c = int(told)
    f = LevelEnergy.for_data(x, LevelConfig(width=48, blocks=2, conditions=c), rng=seeded(4))
    config = TrainConfig(steps=200, batch_size=256, lr=5e-3, average=0.98, device="cpu")
    objective = MultiLevelScore(ladder, conditions=c)
    trainer = Trainer(f, objective, torch.cat([x, moved], 1)[:, : 1 + c], q=None, config=config, rng_seed=0)
    trainer.run()
    made = descend_levels(trainer.model, f.start(1000, 3.0, rng=seeded(5)), ladder, rng=seeded(6))
    far = float((made.abs() > 0.5).float().mean())  # of the altered data 3/8
    assert far < 0.08 if told else far > 0.25


@pytest.mark.parametrize("corrections", [0, 2])
def test_descent_samples_the_law(corrections: int):
    """With the exact f the points have the data's moments, but for the last level's noise and the ladder's steps."""
    f = LevelEnergy(
        torch.tensor([1.0, -1.0]), torch.diag(torch.tensor([0.25, 1.0])), LevelConfig(width=4), rng=seeded()
    )
    ladder = NoiseLadder(0.02, 5.0, 80)
    made = descend_levels(f, f.start(4000, 5.0, rng=seeded(1)), ladder, rng=seeded(2), corrections=corrections)
    assert torch.allclose(made.mean(0), torch.tensor([1.0, -1.0]), atol=4.0 / math.sqrt(4000))
    assert torch.allclose(made.std(0), torch.tensor([0.5, 1.0]), rtol=0.05)


def test_what_does_not_fit_is_refused():
    f = LevelEnergy.for_data(torch.randn(20, 3, generator=seeded()), rng=seeded())
    with pytest.raises(RlcError, match=r"\(\.\.\., 4\)"):
        f(torch.zeros(5, 3))
    with pytest.raises(RlcError, match="needs rng"):
        MultiLevelScore().loss(f, torch.zeros(5, 3), state=MultiLevelScore().initial_state())
    with pytest.raises(RlcError, match="sigma must be > 0"):
        at_level(f, 0.0)
    with pytest.raises(RlcError, match="do not vary"):
        LevelEnergy.for_data(torch.ones(5, 3), rng=seeded())
