"""Generated images: the three distances by hand, a sampler that hits a known law, and a quick study."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rl_contrastive.analysis.statistics import Interval
from rl_contrastive.claims.base import Context
from rl_contrastive.claims.energy import images_report
from rl_contrastive.claims.energy.image_data import generator
from rl_contrastive.claims.energy.image_energies import ImageEnergy
from rl_contrastive.claims.energy.image_metrics import (
    copies,
    frechet_distance,
    nearest_distances,
    principal_axes,
    two_sample_accuracy,
    two_sample_halves,
)
from rl_contrastive.claims.energy.images import images, sample
from rl_contrastive.claims.energy.images_config import ImagesConfig
from rl_contrastive.claims.grid import Cell
from rl_contrastive.energy.noise import Gaussian
from rl_contrastive.errors import RlcError


def normal(n: int, d: int, stream: str) -> torch.Tensor:
    return torch.randn(n, d, generator=generator(0, stream), dtype=torch.float64)


def test_two_samples_of_one_law_look_alike_and_of_two_laws_do_not():
    a, b = normal(400, 3, "a"), normal(400, 3, "b")
    assert abs(two_sample_accuracy(a, b) - 0.5) < 0.06
    assert two_sample_accuracy(a, b + 20.0) == 1.0
    assert two_sample_accuracy(a, a + 1e-9) == 0.0  # copies: everyone's nearest is of the other sample
    assert two_sample_accuracy(a, b) == two_sample_accuracy(b, a)


def test_a_wide_sample_fools_the_mean_of_the_halves_and_not_the_halves():
    own, real = two_sample_halves(2.5 * normal(200, 100, "a"), normal(200, 100, "b"))
    assert own < 0.1
    assert real > 0.95
    assert abs(two_sample_accuracy(2.5 * normal(200, 100, "a"), normal(200, 100, "b")) - 0.5) < 0.05


def test_two_sample_accuracy_by_hand_with_ties():
    a, b = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [4.0]])
    # 0 -> 1 (own), 1 -> {0, 2} (half), 2 -> 1 (other), 4 -> 2 (own).
    assert two_sample_accuracy(a, b) == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    with pytest.raises(RlcError, match="two samples"):
        two_sample_accuracy(a, b[:1])


def test_frechet_distance_of_known_gaussians():
    x = normal(5000, 2, "f")
    x = (x - x.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(x.T))).T  # mean 0, covariance I exactly
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-9)
    assert frechet_distance(x, x + torch.tensor([3.0, 4.0])) == pytest.approx(25.0)
    assert frechet_distance(x, x * torch.tensor([3.0, 1.0])) == pytest.approx(4.0)  # (sd 3 - sd 1)^2
    turned = x * torch.tensor([3.0, 1.0])
    quarter = turned @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    assert frechet_distance(turned, quarter) == pytest.approx(8.0)  # both axes: 2^2 + 2^2


def test_principal_axes_are_the_directions_of_largest_variance():
    x = normal(3000, 3, "p") * torch.tensor([1.0, 5.0, 2.0]) + 7.0
    mean, axes = principal_axes(x, 2)
    assert torch.allclose(mean, x.mean(0))
    assert torch.allclose(axes.T @ axes, torch.eye(2, dtype=torch.float64), atol=1e-10)
    assert torch.allclose(axes[1:].abs().diag(-1), torch.ones(1, dtype=torch.float64), atol=0.05)
    assert float(((x - mean) @ axes).var(0)[1]) == pytest.approx(25.0, rel=0.1)


def test_copies_are_seen():
    train, unseen = normal(300, 4, "t"), normal(300, 4, "u")
    assert copies(train[:100], train, unseen) == (0.0, 1.0)
    ratio, near = copies(normal(300, 4, "v"), train, unseen)
    assert ratio == pytest.approx(1.0, abs=0.12)
    assert near == pytest.approx(0.05, abs=0.04)
    assert torch.equal(nearest_distances(torch.tensor([[0.0, 0.0]]), torch.tensor([[3.0, 4.0], [6.0, 8.0]]))[:1],
                       torch.tensor([5.0], dtype=torch.float64))  # fmt: skip


class Tilt(torch.nn.Module):
    """g that turns N(0, .3^2) into N(.1, .15^2): the difference of the two logarithms, but for a constant."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (-0.5 * ((x - 0.1) / 0.15).square() + 0.5 * (x / 0.3).square()).sum(-1)


class Nothing(torch.nn.Module):
    """g = 0, differentiable."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 0.0 * x.sum(-1)


@pytest.mark.parametrize(("g", "mean", "sd"), [(Tilt(), 0.1, 0.15), (Nothing(), 0.0, 0.3)])
def test_samples_are_of_the_law_q_exp_g(g, mean, sd):
    q = Gaussian(torch.zeros(4), 0.09 * torch.eye(4))
    energy = ImageEnergy(q, g, torch.device("cpu"))
    config = ImagesConfig(generated=1500, proposals=20_000, chain_steps=40)
    made = sample(energy, 1500, config, seed=0)
    assert abs(float(made.x.mean()) - mean) < 4 * sd / math.sqrt(6000)
    assert float(made.x.std()) == pytest.approx(sd, rel=0.05)
    assert 0.4 < made.acceptance < 0.75  # the adaptation aims at .574
    assert (made.ess == pytest.approx(20_000)) is isinstance(g, Nothing)


def made_cell(method: str, tuned: float, **metrics: float) -> Cell:
    values = {name: np.full(3, value) for name, value in metrics.items()}
    return Cell("digits", method, {}, (10, 11, 12), values, tuning=[({}, tuned)])


def test_the_best_energy_is_tuning_s_and_bars_can_fail():
    cells = {
        ("digits", "NCE, GMM"): made_cell("NCE, GMM", 0.7, accuracy=0.6, to_train=1.1),
        ("digits", "MECO, GMM"): made_cell("MECO, GMM", 0.6, accuracy=0.7, to_train=0.2),
    }
    best = images_report.best_energy(cells, "digits", ["NCE, GMM", "MECO, GMM"])
    assert best == "MECO, GMM"
    assert [bar.met for bar in images_report.bars("digits", best, cells)] == [False, False]
    assert [bar.met for bar in images_report.bars("digits", "NCE, GMM", cells)] == [True, True]
    assert images_report.verdict(Interval(-0.1, -0.2, 0.0)) == "not different"
    assert images_report.verdict(Interval(-0.1, -0.2, -0.05)) == "better"
    assert images_report.verdict(Interval(0.1, 0.05, 0.2)) == "worse"


@pytest.mark.long
def test_the_quick_study(tmp_path):
    pytest.importorskip("sklearn")
    report = images(ImagesConfig.quick(), Context(tmp_path, device="cpu"))
    seen = report.numbers["per_seed"]["digits"]
    assert set(seen) == set(ImagesConfig.quick().methods)
    assert max(seen["real train"]["to_train"]) == 0.0
    assert min(seen["real train"]["near"]) == 1.0
    assert max(seen["real train"]["accuracy"]) < min(seen["q: GMM"]["accuracy"])
    wide = seen[images_report.WIDE]
    assert all(own < 0.35 < 0.8 < real for own, real in zip(wide["own"], wide["real"], strict=True))
    assert "hole" in report.answer
    assert all(len(row) == len(t.columns) for t in report.tables for row in t.rows)
    assert (tmp_path / report.plots[0]).read_bytes().startswith(b"\x89PNG")
    assert "noise law" in report.answer


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(RlcError, match="q: GMM"):
        ImagesConfig(methods=("NCE, GMM",))
    with pytest.raises(RlcError, match="at least one energy"):
        ImagesConfig(methods=("q: GMM", "real train"))
    with pytest.raises(RlcError, match="proposals"):
        ImagesConfig(generated=100, proposals=60)
