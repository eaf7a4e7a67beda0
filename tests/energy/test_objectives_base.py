"""What every energy objective owes its caller: states that survive, plain errors, float32 models, estimates to log."""

from __future__ import annotations

import math

import pytest
import torch
from energy_laws import GaussianLaw, QuadraticEnergy
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from rl_contrastive.energy.base import ObjectiveState, effective_sample_size, log_mean_exp
from rl_contrastive.energy.noise import Gaussian, Uniform
from rl_contrastive.energy.objectives import make
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import entries

Q = GaussianLaw(0.0, 2.0)
NAMES = [entry.name for entry in entries("energy-objective")]
OPTIONS = {"pcd": {"buffer": 12}, "fce": {"dim": 1}}
ESTIMATES = {"nce", "ence", "fce", "meco", "snis", "infonce", "grid-likelihood"}  # of log Z, without noise for logging


def draws(n: int, seed: int = 0) -> Tensor:
    return GaussianLaw(1.0, 0.5).sample(n, rng=torch.Generator().manual_seed(seed))


def test_effective_sample_size_by_hand() -> None:
    assert float(effective_sample_size(torch.tensor([0.0, math.log(3.0)]))) == pytest.approx(16 / 10)
    assert float(effective_sample_size(torch.full((7,), -1e4))) == pytest.approx(7.0)
    assert float(log_mean_exp(torch.tensor([0.0, math.log(3.0)]))) == pytest.approx(math.log(2.0))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=20), st.floats(-1e4, 1e4))
def test_effective_sample_size_lies_in_one_to_m_and_ignores_constants(values: list[float], shift: float) -> None:
    log_w = torch.tensor(values, dtype=torch.float64)
    ess = float(effective_sample_size(log_w))
    assert 1.0 - 1e-9 <= ess <= len(values) * (1.0 + 1e-9)
    assert float(effective_sample_size(log_w + shift)) == pytest.approx(ess, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_resumed_run_continues_to_the_bit(name: str) -> None:
    """Parameters, objective state and generator saved after 4 steps; 4 more steps from there and without a break."""

    def run(f: QuadraticEnergy, state: ObjectiveState, rng: torch.Generator) -> ObjectiveState:
        for _ in range(4):
            out = objective.loss(f, draws(8), q=Q, state=state, rng=rng)
            assert out.surrogate.shape == ()
            assert out.state.step == state.step + 1
            parameters = [f.theta, *state.parameters()]
            gradients = torch.autograd.grad(out.surrogate, parameters)
            with torch.no_grad():
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter -= 0.05 * gradient
            state = out.state
        return state

    objective = make(name, OPTIONS.get(name))
    f, rng = QuadraticEnergy((0.5, 1.0)), torch.Generator().manual_seed(1)
    state = run(f, objective.initial_state(), rng)
    copy, again, resumed = QuadraticEnergy((0.0, 0.0)), torch.Generator(), objective.initial_state()
    copy.load_state_dict(f.state_dict())
    again.set_state(rng.get_state())
    kept = resumed.parameters()
    resumed.load_state_dict(state.state_dict())
    assert all(a is b for a, b in zip(kept, resumed.parameters(), strict=True))  # an optimiser may hold them
    first, second = run(f, state, rng).state_dict(), run(copy, resumed, again).state_dict()
    assert torch.equal(f.theta, copy.theta)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert int(first["step"]) == 8


def test_a_state_of_another_kind_is_refused() -> None:
    meco, nce = make("meco").initial_state(), make("nce").initial_state()
    with pytest.raises(RlcError, match=r"MECOState: the saved state has \['c', 'step'\]"):
        meco.load_state_dict(nce.state_dict())
    with pytest.raises(RlcError, match="the saved c is"):
        nce.load_state_dict({"step": torch.tensor(1), "c": torch.zeros(3, dtype=torch.float64)})


@pytest.mark.parametrize("name", NAMES)
def test_energies_that_are_not_finite_say_which_how_many_and_when(name: str) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            spoiled = torch.arange(x.shape[-2]) < 2
            return torch.where(spoiled, math.nan, -(x[..., 0] ** 2))

    objective = make(name, OPTIONS.get(name))
    state = objective.initial_state()
    state.step = 17
    with pytest.raises(RlcError, match=rf"^{name}: 2 of \d+ energies f\(.*\) are NaN or infinite at step 17"):
        objective.loss(Broken(), draws(8), q=Q, state=state, rng=torch.Generator())


@pytest.mark.parametrize("name", NAMES)
def test_energies_of_the_wrong_shape_are_refused(name: str) -> None:
    objective = make(name, OPTIONS.get(name))
    with pytest.raises(RlcError, match=rf"^{name}: f must map .* \(8, 1\) to \(8,\), got \(8, 1\)"):
        objective.loss(lambda x: -(x**2), draws(8), q=Q, state=objective.initial_state(), rng=torch.Generator())
    with pytest.raises(RlcError, match=rf"^{name}: .*x must be"):
        objective.loss(
            QuadraticEnergy((0.5, 1.0)), draws(8)[:, 0], q=Q, state=objective.initial_state(), rng=torch.Generator()
        )


@pytest.mark.parametrize("name", ["nce", "ence", "meco", "snis", "infonce"])
def test_noise_that_does_not_fit_is_refused(name: str) -> None:
    f, objective = QuadraticEnergy((0.5, 1.0)), make(name)
    state, x = objective.initial_state(), draws(8)
    for options, sentence in (
        ({"q": None, "z": x}, "needs a noise law"),
        ({"q": Q}, "give the noise z, or rng"),
        ({"q": Q, "z": torch.zeros(4, 2)}, r"the noise z \(4, 2\) and the data x \(8, 1\) must agree"),
        ({"q": Q, "z": torch.zeros(0, 1)}, "noise z is empty"),
        ({"q": Q, "z": torch.full((3, 1), math.inf)}, r"3 of 3 energies f\(noise z\)"),
    ):
        with pytest.raises(RlcError, match=f"^{name}: {sentence}"):
            objective.loss(f, x, state=state, **options)
    with pytest.raises(RlcError, match=f"^{name}: the noise law has dimension 1, the data 2"):
        objective.loss(f, torch.zeros(8, 2), q=Q, state=state, rng=torch.Generator())


@pytest.mark.parametrize("name", ["nce", "ence", "meco", "snis", "infonce"])
def test_noise_left_out_is_drawn_k_to_a_datum(name: str) -> None:
    f, objective = QuadraticEnergy((0.5, 1.0)), make(name, {"noise_per_datum": 3})
    drawn = objective.loss(f, draws(8), q=Q, state=objective.initial_state(), rng=torch.Generator().manual_seed(5))
    z = Q.sample(24, rng=torch.Generator().manual_seed(5))
    given_ = objective.loss(f, draws(8), q=Q, z=z, state=objective.initial_state())
    assert torch.equal(drawn.surrogate, given_.surrogate)


@pytest.mark.parametrize("name", NAMES)
def test_the_logged_nll_is_that_of_the_model(name: str) -> None:
    """f of N(1, .5^2) without its constant: 4000 noise samples tell the NLL within .1; without noise NaN says so."""
    f, objective, x = QuadraticEnergy((4.0, 4.0)), make(name, {"dim": 1} if name == "fce" else None), draws(500)
    truth = -float(GaussianLaw(1.0, 0.5).log_prob(x).mean())
    rng = torch.Generator().manual_seed(2)
    out = objective.loss(f, x, q=Q, z=Q.sample(4000, rng=rng), state=objective.initial_state(), rng=rng)
    assert out.nll.dtype == out.ess.dtype == torch.float64
    assert not out.nll.requires_grad
    assert not out.ess.requires_grad
    assert float(out.nll) == pytest.approx(truth, abs=0.1)
    assert float(out.ess) > 10
    if name not in ESTIMATES:
        silent = objective.loss(f, x, q=Q, state=objective.initial_state(), rng=rng)
        assert math.isnan(float(silent.nll))
        assert math.isnan(float(silent.ess))


@pytest.mark.parametrize("name", NAMES)
def test_a_float32_model_gets_float32_gradients_near_the_float64_ones(name: str) -> None:
    gradients = []
    for dtype in (torch.float32, torch.float64):
        f, objective = QuadraticEnergy((0.5, 1.0)).to(dtype), make(name, {**OPTIONS.get(name, {}), **quiet(name)})
        x, z = draws(8).to(dtype), Q.quantiles(8).to(dtype)
        rng = torch.Generator().manual_seed(3)
        out = objective.loss(f, x, q=Q, z=z, state=objective.initial_state(), rng=rng)
        (gradient,) = torch.autograd.grad(out.surrogate, f.theta)
        assert gradient.dtype == dtype
        gradients.append(gradient.double())
    assert torch.allclose(*gradients, atol=1e-4)


def quiet(name: str) -> dict[str, object]:
    """Settings under which random numbers, which differ between the two types, hardly matter."""
    if name == "denoising-score":
        return {"sigma": 1e-3}
    if name == "energy-discrepancy":
        return {"variance": 1e-12}
    return {"chain": {"step_size": 1e-14, "steps": 1}} if name in ("cd", "pcd") else {}


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("pcd", "fce")])
def test_leading_axes_are_separate_problems(name: str) -> None:
    f, objective = QuadraticEnergy((0.5, 1.0)), make(name, quiet(name))
    x, z = draws(12).reshape(2, 6, 1), Q.quantiles(8).reshape(2, 4, 1)
    rng = torch.Generator().manual_seed(3)
    whole = objective.loss(f, x, q=Q, z=z, state=objective.initial_state(shape=(2,)), rng=rng)
    parts = [objective.loss(f, x[i], q=Q, z=z[i], state=objective.initial_state(), rng=rng) for i in range(2)]
    if name not in ("denoising-score", "energy-discrepancy"):  # whose own noise is drawn in another order
        total = sum(float(part.surrogate.detach()) for part in parts)
        assert float(whole.surrogate.detach()) == pytest.approx(total, abs=1e-5)
    for i, part in enumerate(parts):
        assert whole.nll.shape == whole.ess.shape == (2,)
        assert float(whole.nll[i]) == pytest.approx(float(part.nll), abs=1e-12)
        assert float(whole.ess[i]) == pytest.approx(float(part.ess), abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_trains_with_the_library_s_own_noise(name: str) -> None:
    """float32 network and data in the plane, fitted Gaussian noise: gradients for every weight that f depends on."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(40, 2, generator=rng) @ torch.tensor([[1.0, 0.5], [0.0, 0.3]])
    q = Gaussian.fit(x, inflate=1.5)
    body = nn.Sequential(nn.Linear(2, 8), nn.SiLU(), nn.Linear(8, 1, bias=False))
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng))
    objective = make(name, {"buffer": 60} if name == "pcd" else {})
    state = objective.initial_state()
    out = objective.loss(lambda x: body(x)[..., 0], x, q=q, z=q.sample(60, rng=rng), state=state, rng=rng)
    out.surrogate.backward()
    for parameter in [*body.parameters(), *state.parameters()]:
        assert parameter.grad is not None
        assert bool(torch.isfinite(parameter.grad).all())
        assert float(parameter.grad.abs().max()) > 0.0
    assert math.isfinite(float(out.nll))
    assert 1.0 <= float(out.ess) <= (60 if name != "grid-likelihood" else 300**2)


@pytest.mark.parametrize("name", ["nce", "ence", "infonce"])
def test_a_box_that_does_not_hold_the_data_is_refused(name: str) -> None:
    q, x = Uniform(torch.tensor([-1.0]), torch.tensor([1.0])), torch.tensor([[0.5], [1.5], [-3.0]])
    objective = make(name)
    with pytest.raises(RlcError, match=f"^{name}: the noise law has density 0 at 2 of 3 data points at step 0"):
        objective.loss(QuadraticEnergy((0.5, 1.0)), x, q=q, state=objective.initial_state(), rng=torch.Generator())


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(RlcError, match="did you mean 'meco'"):
        make("mecco")
    with pytest.raises(RlcError, match="gamma"):
        make("meco", {"gama": 0.5})
    assert make("snis").name == "snis"
