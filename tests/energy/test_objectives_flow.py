"""Flow contrastive estimation: the flow's density, NCE where it stands still, finite differences of both players, the
fixed point, and both laws found from noise that misses the data."""

from __future__ import annotations

import math

import pytest
import torch
from energy_laws import GaussianLaw, QuadraticEnergy, finite_difference

from rl_contrastive.energy.energies import MLPConfig, MLPEnergy
from rl_contrastive.energy.flow import Flow
from rl_contrastive.energy.flow_contrastive import FCE, FCEConfig, FlowState
from rl_contrastive.energy.noise import Gaussian, Uniform
from rl_contrastive.energy.noise_contrastive import NCE
from rl_contrastive.energy.trainer import TrainConfig, Trainer
from rl_contrastive.errors import RlcError

P, Q = GaussianLaw(1.0, 0.5), GaussianLaw(0.0, 1.0)


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def moved_state(objective: FCE, scale: float = 0.3) -> FlowState:
    state = objective.initial_state()
    with torch.no_grad():
        state.flow.copy_(scale * torch.randn(state.flow.shape, generator=gen(1), dtype=torch.float64))
        state.c.fill_(0.2)
    return state


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_the_flow_goes_both_ways_with_the_determinant_of_its_jacobian(dim: int) -> None:
    flow = Flow(dim, layers=3, hidden=8, seed=0)
    weights = 0.3 * torch.randn(flow.size, generator=gen(1), dtype=torch.float64)
    e = torch.randn(5, dim, generator=gen(2), dtype=torch.float64)
    z, log_det = flow.forward(weights, e)
    back, same_det = flow.inverse(weights, z)
    assert torch.allclose(back, e, atol=1e-12)
    assert torch.allclose(log_det, same_det, atol=1e-12)
    for row, expected in zip(e, log_det, strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda point: flow.forward(weights, point[None])[0][0], row)
        assert float(torch.linalg.slogdet(jacobian)[1]) == pytest.approx(float(expected), abs=1e-10)
    assert float((z - e).abs().min()) > 1e-3
    still, none = flow.forward(torch.zeros(flow.size, dtype=torch.float64), e)
    assert torch.equal(still, e)
    assert not none.any()


def test_the_flow_s_density_integrates_to_one() -> None:
    objective = FCE(FCEConfig(dim=2, layers=2, hidden=8))
    axis = torch.linspace(-9.0, 9.0, 301, dtype=torch.float64)
    law = Gaussian(torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64))
    log_q = objective.log_q(law, torch.cartesian_prod(axis, axis), moved_state(objective, 0.2)).detach()
    assert float(log_q.exp().sum()) * (18.0 / 300) ** 2 == pytest.approx(1.0, abs=1e-3)


def test_where_the_flow_stands_still_this_is_nce() -> None:
    x, z = P.quantiles(40), Q.quantiles(40)
    outcomes = []
    for objective in (NCE(), FCE(FCEConfig(dim=1))):
        f, state = QuadraticEnergy((0.5, 1.0)), objective.initial_state()
        out = objective.loss(f, x, q=Q, z=z, state=state)
        gradients = torch.autograd.grad(out.surrogate, [f.theta, state.c])
        outcomes.append((out.diagnostics["loss"], out.diagnostics["log_z"], out.nll, out.ess, *gradients))
    for nce, fce in zip(*outcomes, strict=True):
        assert torch.allclose(nce, fce, atol=1e-12)


@pytest.mark.parametrize("dim", [1, 2])
def test_each_player_s_gradient_is_that_of_the_one_value_in_opposite_directions(dim: int) -> None:
    """Finite differences of NCE's loss under the flow's law, with the base draws fixed: down for f and c, up for it."""
    objective = FCE(FCEConfig(dim=dim, layers=2, hidden=4, pace=0.7))
    law = Gaussian(torch.zeros(dim, dtype=torch.float64), torch.eye(dim, dtype=torch.float64))
    x, e = (0.5 + torch.randn(n, dim, generator=gen(n), dtype=torch.float64) for n in (30, 20))
    f = MLPEnergy.for_data(x, MLPConfig(hidden=(5,)), rng=gen()).double()
    state = moved_state(objective)
    state.step = 3

    def loss() -> torch.Tensor:
        return objective.loss(f, x, q=law, z=e, state=state).diagnostics["loss"]

    out = objective.loss(f, x, q=law, z=e, state=state)
    own = next(iter(f.parameters()))
    down, c, up = torch.autograd.grad(out.surrogate, [own, state.c, state.flow])
    for gradient, parameter, sign in ((down, own, 1.0), (c, state.c, 1.0), (up, state.flow, -1.0)):
        expected = sign * finite_difference(lambda: float(loss()), parameter)
        assert torch.allclose(gradient, expected, atol=1e-7)
    assert float(up.abs().max()) > 1e-3


def test_the_truth_on_both_sides_is_the_fixed_point_and_the_value_there_is_two_log_two() -> None:
    """Energy N(1, .5^2) with its log Z, flow x -> x/2 + 1 of N(0, 1): nobody moves; with another flow it does."""
    objective, f = FCE(FCEConfig(dim=1)), QuadraticEnergy((4.0, 4.0))
    for scale, still in ((math.log(0.5), True), (math.log(0.7), False)):
        state = objective.initial_state()
        state.step = 1
        with torch.no_grad():
            state.c.fill_(2.0 + math.log(0.5) + 0.5 * math.log(2 * math.pi))
            state.flow.copy_(torch.tensor([1.0, scale]))  # shift, log-scale
        out = objective.loss(f, P.quantiles(4000), q=Q, z=Q.quantiles(4000), state=state)
        gradients = torch.autograd.grad(out.surrogate, [f.theta, state.c, state.flow])
        largest = max(float(g.abs().max()) for g in gradients)
        assert (largest < 2e-3) == still
        if still:
            assert float(out.diagnostics["loss"]) == pytest.approx(2 * math.log(2.0), abs=1e-6)
            assert float(out.ess) == pytest.approx(4000.0, rel=1e-6)


def test_energy_and_noise_find_a_law_that_the_noise_missed() -> None:
    """Data N(3, 1), noise N(0, 1) at the start; NCE, whose noise stays there, is far off after as many steps."""
    x, found = GaussianLaw(3.0, 1.0).quantiles(2000), {}
    for objective in (FCE(FCEConfig(dim=1)), NCE()):
        f = QuadraticEnergy((0.0, 1.0))
        config = TrainConfig(steps=600, lr=0.1, batch_size=200, device="cpu")
        trainer = Trainer(f, objective, x, q=Q, config=config, rng_seed=0, allow_uncovered=True)
        trainer.run()
        found[objective.name] = f.mean_std
        if objective.name == "fce":
            assert trainer.state.flow.tolist() == pytest.approx([3.0, 0.0], abs=0.1)  # shift, log-scale
    assert found["fce"] == (pytest.approx(3.0, abs=0.1), pytest.approx(1.0, abs=0.15))
    assert found["nce"][0] > 3.5


def test_a_run_that_was_cut_goes_on_to_the_same_bits() -> None:
    x = torch.randn(300, 2, generator=gen())
    states = []
    for cut in (False, True):

        def make(f: MLPEnergy) -> Trainer:
            config = TrainConfig(steps=8, batch_size=32, device="cpu")
            q = Gaussian.fit(x, inflate=2.0)
            return Trainer(f, FCE(FCEConfig(layers=2)), x, q=q, config=config, rng_seed=0)

        trainer = make(MLPEnergy.for_data(x, MLPConfig(hidden=(8,)), rng=gen(1)))
        trainer.run(4)
        if cut:
            saved, trainer = trainer.state_dict(), make(MLPEnergy.for_data(x, MLPConfig(hidden=(8,)), rng=gen(2)))
            trainer.load_state_dict(saved)
        trainer.run()
        states.append(trainer.state_dict())
    for part in ("model", "objective"):
        assert all((states[0][part][name] == states[1][part][name]).all() for name in states[0][part])
    assert states[0]["objective"]["flow"].any()


@pytest.mark.parametrize(
    ("options", "word"),
    [({"dim": 0}, "dim"), ({"layers": -1}, "layers"), ({"hidden": 0}, "hidden"), ({"pace": 0.0}, "pace"),
     ({"pace": math.nan}, "pace"), ({"seed": -1}, "seed")],
)  # fmt: skip
def test_options_that_are_refused(options: dict[str, float], word: str) -> None:
    with pytest.raises(RlcError, match=f"fce: {word} must "):
        FCEConfig(**options)  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused() -> None:
    f, objective, x = QuadraticEnergy((0.5, 1.0)), FCE(FCEConfig(dim=1)), P.quantiles(8)
    state = objective.initial_state()
    plane = Gaussian(torch.zeros(2), torch.eye(2))
    box = Uniform(torch.tensor([-1.0], dtype=torch.float64), torch.tensor([1.0], dtype=torch.float64))
    for options, sentence in (
        ({"q": None, "z": x}, "needs a noise law q"),
        ({"q": Q}, "give the noise z, or rng"),
        ({"q": plane, "z": x}, "the noise law has dimension 2, the data 1"),
        ({"q": Q, "z": torch.zeros(4, 2)}, r"z must be \(m, 1\), got \(4, 2\)"),
        ({"q": box, "z": torch.zeros(4, 1)}, "the noise law has density 0 at"),
    ):
        with pytest.raises(RlcError, match=f"^fce: {sentence}"):
            objective.loss(f, x, state=state, **options)
    with pytest.raises(RlcError, match=r"x must be \(n, 1\) as dim says, got \(8, 2\)"):
        objective.loss(f, torch.zeros(8, 2), q=Q, z=x, state=state)
    with pytest.raises(RlcError, match="one problem at a time"):
        objective.initial_state(shape=(2,))
