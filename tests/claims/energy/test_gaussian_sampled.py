"""The sampled mean: laws, streams and counts by hand, invariances of the estimators, near and far means."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rl_contrastive.claims.energy.gaussian_sampled import (
    METHODS,
    Mean,
    Setting,
    Stream,
    Trace,
    estimate,
    noise_law,
    suffix_average,
    sustained,
)
from rl_contrastive.energy.noise import Gaussian, Mixture
from rl_contrastive.errors import RlcError

CPU = torch.device("cpu")


def run(setting: str, method: str, *rates: float, seeds: tuple[int, ...] = (3, 4), steps: int = 200) -> Trace:
    parsed = Setting.parse(setting)
    return estimate(parsed, METHODS[method], rates=rates, seeds=seeds, steps=steps, data=500, device=CPU)


# --- pieces ----------------------------------------------------------------------------------------------------------


def test_settings_have_names_that_parse() -> None:
    setting = Setting(2.5, 10, "narrow", "raw")
    assert setting.name == "R=2.5 B=10 narrow raw"
    assert Setting.parse(setting.name) == setting
    with pytest.raises(RlcError, match="noise is mix or narrow"):
        Setting(1.0, 10, "wide", "raw")  # type: ignore[arg-type]
    with pytest.raises(RlcError, match="batch must be >= 1"):
        Setting(1.0, 0, "mix", "raw")


def test_model_by_hand() -> None:
    model = Mean(torch.tensor([[1.0, 2.0]], dtype=torch.float64))
    with torch.no_grad():
        model.theta.copy_(torch.tensor([[3.0, 0.5]]))
    x = torch.tensor([4.0, 0.0], dtype=torch.float64).reshape(1, 1, 2, 1).expand(1, 2, 2, 1)
    assert model(x).tolist() == [[[3.0 * 3.0 - 8.0, -3.0], [0.5 * 2.0 - 8.0, -1.0]]]


def test_every_seed_has_the_noise_law_it_says() -> None:
    centres = torch.tensor([3.0, 16.0], dtype=torch.float64)
    x = torch.linspace(-12.0, 40.0, 2601, dtype=torch.float64)[:, None]  # (n, 1)
    both = x.expand(2, *x.shape)
    values = noise_law("mix", centres).log_prob(both)
    for s, centre in enumerate(centres):
        law = Mixture([normal_law(0.0, 1.0), normal_law(float(centre), 4.0)], [0.5, 0.5])
        assert torch.allclose(values[s], law.log_prob(x), atol=1e-12)
    narrow = noise_law("narrow", centres)
    assert torch.allclose(narrow.log_prob(both)[1], normal_law(0.0, 1.0).log_prob(x), atol=1e-12)
    with pytest.raises(RlcError, match="draws its noise itself"):
        narrow.sample(3, rng=torch.Generator())


def normal_law(mean: float, variance: float) -> Gaussian:
    return Gaussian(torch.tensor([mean], dtype=torch.float64), torch.tensor([[variance]], dtype=torch.float64))


def test_a_seeds_stream_depends_on_that_seed_alone() -> None:
    setting = Setting(8.0, 50, "mix", "centred")
    both, alone = Stream(setting, (5, 6), 300, CPU), Stream(setting, (6,), 300, CPU)
    draws: list[Tensor] = []
    for _ in range(300):  # beyond one chunk
        (x, z), (x_alone, z_alone) = both.next(), alone.next()
        assert torch.equal(x[1], x_alone[0])
        assert torch.equal(z[1], z_alone[0])
        assert np.isin(x[1].numpy(), both.data[1]).all()
        draws.append(z[0, :, 0])
    z = torch.cat(draws)
    assert len(torch.unique(z)) == len(z)
    assert float(z.mean()) == pytest.approx(4.0, abs=0.2)  # half at 0, half at the data's mean 8
    assert float(((z - 4.0) ** 2).mean()) == pytest.approx(16.0 + 2.5, abs=0.5)


def test_suffix_average_by_hand() -> None:
    theta = np.array([[0.0], [2.0], [4.0], [6.0], [8.0]])
    assert suffix_average(theta)[:, 0].tolist() == [0.0, 1.0, 3.0, 4.0, 6.0]  # t=3: (2+4+6)/3, t=4: (4+6+8)/3


def test_sustained_is_no_first_hit() -> None:
    averages = np.full((101, 5), 10.0)
    averages[:30, 0] = 0.0  # right from 30 on
    averages[:, 1] = np.linspace(0.0, 20.0, 101)  # passes through 10 and leaves
    averages[:95, 2] = 0.0  # right only in the last twentieth
    averages[70, 3] = np.nan  # not a number once
    assert sustained(averages, 10.0, tolerance=0.1).tolist() == [30.0, np.inf, np.inf, 71.0, 0.0]


# --- estimators ------------------------------------------------------------------------------------------------------


def test_step_sizes_side_by_side_change_nothing() -> None:
    for method in ("MECO(.9)", "MSTORM(.3)", "eNCE-NGD", "NCE-Adam"):
        many = run("R=4 B=20 mix centred", method, 0.05, 0.3, steps=60)
        one = run("R=4 B=20 mix centred", method, 0.3, seeds=(4,), steps=60)
        assert np.allclose(many.theta[:, 1, 1], one.theta[:, 0, 0], rtol=0, atol=1e-9), method
        assert not np.allclose(many.theta[:, 0, 1], one.theta[:, 0, 0], atol=0.1)


def test_self_normalised_weights_do_not_feel_the_shift_and_a_moving_average_does() -> None:
    for method, same in (("SNIS", True), ("MECO(.9)", False), ("NCE-GD", False)):
        centred, raw = (run(f"R=8 B=50 mix {form}", method, 0.1) for form in ("centred", "raw"))
        assert np.allclose(centred.theta, raw.theta, rtol=0, atol=1e-6) is same, method


@pytest.mark.long
def test_all_methods_find_a_near_mean_and_none_a_far_one_without_noise_there() -> None:
    rates = {"eNCE-NGD": 0.05, "NCE-Adam": 0.1}
    for method in METHODS:
        near = run("R=2 B=100 mix centred", method, rates.get(method, 0.3), steps=250)
        assert np.abs(suffix_average(near.theta)[-1] - 2.0).max() < 0.15, method
        far = run("R=8 B=100 narrow raw", method, rates.get(method, 0.3), steps=250)
        assert np.isinf(sustained(suffix_average(far.theta), 8.0, tolerance=0.1)).all(), method


@pytest.mark.slow
def test_bars_of_the_far_mean_with_covering_noise() -> None:
    for method, rate, most in (("SNIS", 0.3, 50), ("MECO(.9)", 0.3, 250), ("eNCE-NGD", 0.3, 250), ("NCE-GD", 1.0, 350)):
        setting = Setting(16.0, 100, "mix", "centred")
        trace = estimate(setting, METHODS[method], rates=(rate,), seeds=(0, 1), steps=2000, data=2000, device=CPU)
        assert sustained(suffix_average(trace.theta), 16.0, tolerance=0.1).max() <= most, method
