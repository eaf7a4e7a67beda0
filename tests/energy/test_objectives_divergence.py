"""CD and PCD: values and gradients with the chains held, the truth as fixed point, what the buffer does and sees."""

from __future__ import annotations

import math

import pytest
import torch
from energy_laws import GaussianLaw, QuadraticEnergy, finite_difference
from torch import Tensor, nn

from rl_contrastive.energy.divergence import CD, PCD, CDConfig, PCDConfig, PCDState
from rl_contrastive.energy.samplers import ChainConfig, run_chains
from rl_contrastive.errors import RlcError

Q = GaussianLaw(0.0, 2.0)
FROZEN = ChainConfig("langevin", steps=1, step_size=1e-20)
"""Chains that stay where they start: what the objective does with them is then visible."""


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_value_by_hand() -> None:
    """One Langevin step from each of two points: x' = x + h/2 f'(x) + sqrt(h) e."""
    chain = ChainConfig("langevin", steps=1, step_size=0.04)
    f, x = QuadraticEnergy((0.3, 2.0)), torch.tensor([[1.0], [-2.0]], dtype=torch.float64)
    e = torch.randn(2, 1, generator=seeded(), dtype=torch.float64)
    after = x + 0.02 * (0.3 - 2.0 * x) + 0.2 * e
    f_x, f_after = ((0.3 * p - p**2).squeeze(-1) for p in (x, after))
    for penalty in (0.0, 0.1):
        objective = CD(CDConfig(chain=chain, penalty=penalty))
        out = objective.loss(f, x, state=objective.initial_state(), rng=seeded())
        expected = f_after.mean() - f_x.mean() + penalty * (f_x.square().mean() + f_after.square().mean())
        assert float(out.surrogate.detach()) == pytest.approx(float(expected), abs=1e-12)
        assert float(out.diagnostics["gap"]) == pytest.approx(float(f_after.mean() - f_x.mean()), abs=1e-12)


@pytest.mark.parametrize("kernel", ["langevin", "mala"])
def test_gradient_agrees_with_finite_differences_with_the_chains_held(kernel: str) -> None:
    chain = ChainConfig(kernel, steps=3, step_size=0.1)  # type: ignore[arg-type]
    f, objective = QuadraticEnergy((0.3, 2.0)), CD(CDConfig(chain=chain, penalty=0.1))
    x = Q.sample(6, rng=seeded(1))
    out = objective.loss(f, x, state=objective.initial_state(), rng=seeded())
    (gradient,) = torch.autograd.grad(out.surrogate, f.theta)
    ends = run_chains(f, x, chain, rng=seeded()).x

    def value() -> float:
        data, model = f(x), f(ends)
        return float(model.mean() - data.mean() + 0.1 * (data.square().mean() + model.square().mean()))

    assert torch.allclose(gradient, finite_difference(value, f.theta), atol=1e-7)


def test_the_truth_is_stationary_under_mala() -> None:
    """Data of N(1, .5^2) are in equilibrium under their own MALA chains, however short; a wrong model moves them."""
    objective = CD(CDConfig(chain=ChainConfig("mala", steps=3, step_size=0.1)))
    x = GaussianLaw(1.0, 0.5).quantiles(40_000)
    sizes = {}
    for name, theta in (("truth", (4.0, 4.0)), ("wrong mean", (2.0, 4.0)), ("wrong deviation", (8.0, 8.0))):
        f = QuadraticEnergy(theta)
        out = objective.loss(f, x, state=objective.initial_state(), rng=seeded())
        sizes[name] = float(torch.autograd.grad(out.surrogate, f.theta)[0].abs().max())
    assert sizes["truth"] < 0.01
    assert sizes["wrong mean"] > 0.05
    assert sizes["wrong deviation"] > 0.05


def fit(objective: CD | PCD, x: Tensor, steps: int = 400) -> tuple[float, float]:
    f, state, rng = QuadraticEnergy((0.0, 1.0)), objective.initial_state(), seeded(1)
    optimiser = torch.optim.SGD(f.parameters(), lr=1.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        out = objective.loss(f, x, q=Q, state=state, rng=rng)
        state = out.state
        optimiser.zero_grad()
        out.surrogate.backward()
        optimiser.step()
        schedule.step()
    return f.mean_std


@pytest.mark.long
def test_both_find_a_gaussian() -> None:
    x = GaussianLaw(1.0, 0.5).quantiles(400)
    chain = ChainConfig("mala", steps=3, step_size=0.2)
    for objective in (CD(CDConfig(chain=chain)), PCD(PCDConfig(chain=chain, buffer=800))):
        mean, std = fit(objective, x)
        assert mean == pytest.approx(1.0, abs=0.05), objective.name
        assert std == pytest.approx(0.5, abs=0.05), objective.name
    # The negative control: chains that do not move teach nothing.
    assert abs(fit(CD(CDConfig(chain=FROZEN)), x)[0] - 1.0) > 0.5


class TwoModes(nn.Module):
    """f(x) = log(N(x; -4, 1) + e^b N(x; 4, 1)): b says how much mass the far mode has."""

    def __init__(self) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        near, far = -0.5 * (x[..., 0] + 4.0) ** 2, self.b - 0.5 * (x[..., 0] - 4.0) ** 2
        return torch.logaddexp(near, far)


def test_persistent_chains_see_mass_far_from_the_data_and_cd_does_not() -> None:
    """All data are in the near mode while the model puts half of its mass into the far one: d NLL / d b = 1/2."""
    x, chain = GaussianLaw(-4.0, 1.0).quantiles(500), ChainConfig("mala", steps=5, step_size=0.3)
    slopes = {}
    for objective in (CD(CDConfig(chain=chain)), PCD(PCDConfig(chain=chain, buffer=500, refresh=0.1))):
        f, state, rng = TwoModes(), objective.initial_state(), seeded()
        for _ in range(5):
            out = objective.loss(f, x, q=GaussianLaw(0.0, 5.0), state=state, rng=rng)
            state = out.state
        slopes[objective.name] = float(torch.autograd.grad(out.surrogate, f.b)[0])
    assert slopes["pcd"] == pytest.approx(0.5, abs=0.1)
    assert abs(slopes["cd"]) < 0.01


def test_the_buffer_is_filled_from_q_and_only_the_chains_taken_change() -> None:
    objective = PCD(PCDConfig(chain=FROZEN, buffer=10, refresh=0.0))
    f, x = QuadraticEnergy((0.3, 2.0)), Q.sample(4, rng=seeded(1))
    first = objective.loss(f, x, q=Q, state=objective.initial_state(), rng=seeded(2)).state
    assert torch.allclose(first.buffer, Q.sample(10, rng=seeded(2)), atol=1e-8)  # frozen chains: the draws of q
    before = first.buffer.clone()
    moving = PCD(PCDConfig(chain=ChainConfig("langevin", steps=1, step_size=0.1), buffer=10, refresh=0.0))
    second = moving.loss(f, x, q=Q, state=first, rng=seeded(3)).state
    changed = (second.buffer != before).any(-1)
    assert int(changed.sum()) == 4  # without replacement: one chain a row
    assert torch.equal(first.buffer, before)  # the state handed in is left alone
    assert (first.step, second.step) == (1, 2)


@pytest.mark.parametrize("refresh", [0.0, 0.3, 1.0])
def test_the_share_of_chains_that_start_anew(refresh: float) -> None:
    """An old buffer far outside q's reach shows which chains came from q."""
    objective = PCD(PCDConfig(chain=FROZEN, buffer=2000, refresh=refresh))
    state = PCDState(step=1, buffer=torch.full((2000, 1), 1e3, dtype=torch.float64))
    f, x = QuadraticEnergy((0.0, 1e-9)), Q.sample(2000, rng=seeded(1))
    after = objective.loss(f, x, q=Q, state=state, rng=seeded()).state.buffer
    assert float((after < 500.0).double().mean()) == pytest.approx(refresh, abs=0.04)


def test_chains_get_no_gradient_and_leave_none_behind() -> None:
    f, x = QuadraticEnergy((0.3, 2.0)), Q.sample(6, rng=seeded(1))
    for objective in (CD(), PCD(PCDConfig(buffer=6))):
        out = objective.loss(f, x, q=Q, state=objective.initial_state(), rng=seeded())
        assert f.theta.grad is None
        if isinstance(out.state, PCDState):
            assert not out.state.buffer.requires_grad


def test_chains_that_diverge_say_which_objective_and_when() -> None:
    explosive = ChainConfig("langevin", steps=60, step_size=100.0)
    f, x = QuadraticEnergy((0.0, 100.0)), Q.sample(4, rng=seeded())
    for objective in (CD(CDConfig(chain=explosive)), PCD(PCDConfig(chain=explosive, buffer=4))):
        state = objective.initial_state()
        state.step = 12
        with pytest.raises(RlcError, match=rf"^{objective.name}, step 12: sampler: 4 of 4 .* NaN or infinite"):
            objective.loss(f, x, q=Q, state=state, rng=seeded())


def test_wrong_inputs_are_refused() -> None:
    f, x, pcd = QuadraticEnergy((0.3, 2.0)), torch.zeros(4, 1), PCD(PCDConfig(buffer=3))
    with pytest.raises(RlcError, match="cd: needs rng"):
        CD().loss(f, x, state=CD().initial_state())
    for options, sentence in (
        ({"q": None, "rng": seeded()}, "needs a noise law q"),
        ({"q": Q, "rng": None}, "needs a noise law q, from which chains start, and rng"),
        ({"q": Q, "rng": seeded()}, "a batch of 4 rows needs a buffer of at least 4, not 3"),
    ):
        with pytest.raises(RlcError, match=f"pcd: {sentence}"):
            pcd.loss(f, x, state=pcd.initial_state(), **options)
    with pytest.raises(RlcError, match=r"pcd: the buffer is \(5, 1\)"):
        pcd.loss(f, x[:2], q=Q, state=PCDState(step=1, buffer=torch.zeros(5, 1)), rng=seeded())
    with pytest.raises(RlcError, match="one problem at a time"):
        pcd.initial_state(shape=(2,))
    for config in ({"buffer": 0}, {"refresh": 1.5}, {"penalty": -1.0}, {"refresh": math.nan}):
        with pytest.raises(RlcError):
            PCDConfig(**config)  # type: ignore[arg-type]
    with pytest.raises(RlcError):
        CDConfig(penalty=-1.0)
