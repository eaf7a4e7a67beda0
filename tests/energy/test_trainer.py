"""The trainer: one step by hand, resume to the bit through a checkpoint on disk, what is refused, what is learned."""

from __future__ import annotations

import io
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from energy_laws import GaussianLaw, QuadraticEnergy
from torch import Tensor, nn

from rl_contrastive.device import resolve_device
from rl_contrastive.energy.energies import MLPConfig, MLPEnergy, tilted
from rl_contrastive.energy.noise import Gaussian, Mixture, Uniform, UserLaw, defended, moved
from rl_contrastive.energy.objectives import make
from rl_contrastive.energy.partition import Quadrature, log_partition
from rl_contrastive.energy.trainer import TrainConfig, Trainer
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import entries
from rl_contrastive.runs.checkpoint import load_state, save_state, write_state


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(n: int = 400) -> Tensor:
    """Two blobs in the plane."""
    e = torch.randn(n, 2, generator=gen(5))
    return 0.3 * e + torch.tensor([[-1.0, 0.0], [1.0, 0.5]])[torch.arange(n) % 2]


def trainer(objective: str = "meco", options: dict[str, Any] | None = None, seed: int = 0, **config: Any) -> Trainer:
    x = data()
    f = MLPEnergy.for_data(x, MLPConfig(hidden=(16, 16)), rng=gen(1))
    values = {"steps": 40, "batch_size": 32, "log_every": 7, "device": "cpu", **config}
    q = Gaussian.fit(x, inflate=2.0)
    return Trainer(f, make(objective, options), x, q=q, config=TrainConfig(**values), rng_seed=seed)


def weights(f: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1).double() for p in f.parameters()])


def as_bytes(state: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    write_state(file, state)
    return file.getvalue()


class Constant:
    """An objective of a known gradient: surrogate = sum_j (j + 1) theta_j of a QuadraticEnergy."""

    name = "constant"

    def initial_state(self, **_: Any) -> Any:
        return make("infonce").initial_state()

    def loss(self, f: Any, x: Tensor, *, state: Any, **_: Any) -> Any:
        from rl_contrastive.energy.base import EnergyLoss

        nan = torch.tensor(math.nan)
        (theta,) = f.parameters()
        surrogate = (theta * torch.tensor([3.0, 4.0])).sum()
        return EnergyLoss(surrogate, nan, nan, state)


@pytest.mark.parametrize(
    ("config", "moves"),
    [
        ({"optimiser": "sgd"}, [(0.3, 0.4)] * 4),
        ({"optimiser": "sgd", "clip": 1.0}, [(0.06, 0.08)] * 4),
        ({"optimiser": "normalised"}, [(0.06, 0.08)] * 4),  # the gradient (3, 4) has length 5
        ({"optimiser": "adam"}, [(0.1, 0.1)] * 4),  # a constant gradient: m / sqrt(v) = 1
        ({"optimiser": "sgd", "schedule": "cosine"}, [(0.3 * c, 0.4 * c) for c in (1, 0.853553, 0.5, 0.146447)]),
    ],
)
def test_steps_by_hand(config: dict[str, Any], moves: list[tuple[float, float]]) -> None:
    f = QuadraticEnergy((0.0, 1.0))
    full = TrainConfig(steps=4, lr=0.1, device="cpu", **{"schedule": "constant", **config})
    t = Trainer(f, Constant(), data()[:, :1], q=None, config=full, rng_seed=0)
    for move in moves:
        before = f.theta.detach().clone()
        t.run(1)
        assert (before - f.theta.detach()).tolist() == pytest.approx(move, rel=1e-5)
    assert t.finished
    assert t.history["gradient_norm"] == [5.0, 5.0]  # steps 0 and the last, before clipping


def test_the_average_of_the_parameters_by_hand() -> None:
    f = QuadraticEnergy((0.0, 1.0))
    config = TrainConfig(steps=3, lr=0.1, optimiser="sgd", schedule="constant", average=0.15, device="cpu")
    t = Trainer(f, Constant(), data()[:, :1], q=None, config=config, rng_seed=0)
    t.run()
    # d = min(.15, (1 + t) / (10 + t)) = .1, .15, .15; theta_0 = -.3, -.6, -.9
    mean = -0.3 * 0.9
    mean = 0.15 * mean - 0.6 * 0.85
    mean = 0.15 * mean - 0.9 * 0.85
    assert isinstance(t.model, QuadraticEnergy)
    assert t.model.theta.tolist()[0] == pytest.approx(mean, abs=1e-12)
    assert f.theta.tolist()[0] == pytest.approx(-0.9)


RESUMED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("meco", {"gamma": 0.5}, {"average": 0.9}),
    ("meco", {"gamma": 0.5, "correction": "ratio"}, {"optimiser": "adamw", "weight_decay": 0.1}),
    ("nce", {}, {"noise_batch": 64, "clip": 1.0}),
    ("ence", {}, {"optimiser": "normalised", "beta": 0.3}),
    ("nce", {}, {"precision": "bf16"}),
    ("pcd", {"buffer": 64}, {}),
    ("denoising-score", {}, {"schedule": "constant"}),
]


@pytest.mark.parametrize(("objective", "options", "config"), RESUMED)
def test_a_resumed_run_gives_the_same_bytes(
    objective: str, options: dict[str, Any], config: dict[str, Any], tmp_path: Path
) -> None:
    whole = trainer(objective, options, **config)
    whole.run()
    first = trainer(objective, options, **config)
    first.run(13)
    save_state(tmp_path, first.state_dict())
    second = trainer(objective, options, seed=99, **config)  # its own streams are replaced by the saved ones
    second.run(2)
    second.load_state_dict(load_state(tmp_path))
    assert as_bytes(second.state_dict()) == as_bytes(first.state_dict())
    second.run()
    assert second.step == 40
    assert as_bytes(second.state_dict()) == as_bytes(whole.state_dict())


def test_every_part_of_the_state_matters() -> None:
    """Negative control of the resume test: without one part the run goes elsewhere."""
    whole = trainer("nce")
    whole.run()
    half = trainer("nce")
    half.run(13)
    for part in ("rng", "optimiser", "objective", "model"):
        other = trainer("nce", seed=7)
        other.run(1)
        saved, own = half.state_dict(), other.state_dict()
        other.load_state_dict({**saved, part: own[part]})
        other.run()
        assert not torch.equal(weights(other.f), weights(whole.f)), part


def test_objectives_with_one_seed_see_the_same_batches() -> None:
    seen: dict[str, list[Tensor]] = {}
    for name in ("meco", "nce", "pcd"):
        t = trainer(name)

        def keep(x: Tensor, rng: torch.Generator, name: str = name) -> Tensor:
            seen.setdefault(name, []).append(x)
            return x

        t.augment = keep
        t.run(5)
    assert torch.equal(torch.stack(seen["meco"]), torch.stack(seen["nce"]))
    assert torch.equal(torch.stack(seen["meco"]), torch.stack(seen["pcd"]))
    assert not torch.equal(seen["meco"][0], seen["meco"][1])


def test_early_stopping_keeps_the_best_model() -> None:
    scores = iter([3.0, 1.0, 2.0, 4.0])
    shown: list[Tensor] = []

    def validation(model: nn.Module) -> float:
        shown.append(weights(model))
        return next(scores)

    t = trainer(average=0.5, validate_every=5, patience=2)
    t.validation = validation
    t.run()
    assert (t.step, t.finished, t.best) == (20, True, 1.0)
    assert t.validations == {"step": [5.0, 10.0, 15.0, 20.0], "value": [3.0, 1.0, 2.0, 4.0]}
    t.load_best()
    assert torch.equal(weights(t.model), shown[1])
    assert not torch.equal(shown[1], shown[3])
    t.run()
    assert t.step == 20
    with pytest.raises(RlcError, match="no validation"):
        trainer().load_best()


@pytest.mark.parametrize("name", [entry.name for entry in entries("energy-objective")])
def test_every_objective_trains(name: str) -> None:
    options = {"points": 40} if name == "grid-likelihood" else {"buffer": 64} if name == "pcd" else {}
    t = trainer(name, options, steps=4, noise_batch=16)
    before = weights(t.f)
    t.run()
    assert not torch.equal(before, weights(t.f))
    assert all(math.isfinite(v) for v in t.history["nll"])


@pytest.mark.long
@pytest.mark.parametrize("name", ["meco", "nce"])
def test_it_finds_a_gaussian(name: str) -> None:
    """N(1, 1/2^2) from 4000 quantiles with noise N(0, 1.5^2); the control is the model it starts from."""
    x = GaussianLaw(1.0, 0.5).quantiles(4000)
    f = QuadraticEnergy((0.0, 1.0))
    config = TrainConfig(steps=1500, batch_size=128, lr=0.05, average=0.98, device="cpu")
    t = Trainer(f, make(name), x, q=GaussianLaw(0.0, 1.5), config=config, rng_seed=3)
    assert isinstance(t.model, QuadraticEnergy)
    assert t.model.mean_std == (0.0, 1.0)
    t.run()
    assert t.model.mean_std == pytest.approx((1.0, 0.5), abs=0.06)


def test_bf16_keeps_parameters_and_log_space_in_their_precision() -> None:
    t = trainer("meco", precision="bf16", average=0.9)
    t.run(3)
    assert all(p.dtype == torch.float32 for p in t.model.parameters())
    assert t.state.log_u.dtype == torch.float64
    other = trainer("meco", average=0.9)
    other.run(3)
    gap = (weights(t.f) - weights(other.f)).abs().max()
    assert 0.0 < float(gap) < 0.05  # bf16 was used, and changed little


def test_a_tilted_model_starts_at_its_noise_law_and_improves() -> None:
    x = data()
    q = defended(Gaussian.fit(x, inflate=1.2), Gaussian.fit(x, inflate=4.0))
    f = tilted(q, MLPEnergy.for_data(x, MLPConfig(hidden=(32, 32), zero_output=True), rng=gen(0)))
    box = Quadrature((-6.0, -6.0), (6.0, 6.0), 101)

    def nll() -> float:
        with torch.no_grad():
            return float(log_partition(f, box).log_z - f(x).mean())

    start = nll()
    assert start == pytest.approx(-float(q.log_prob(x).mean()), abs=1e-3)
    config = TrainConfig(steps=300, lr=5e-3, device="cpu")
    Trainer(f, make("meco"), x, q=q, config=config, rng_seed=0).run()
    assert nll() < start - 0.3


class Moving(GaussianLaw):
    """Remembers where it was sent."""

    where = "nowhere"

    def to(self, device: str) -> Moving:
        other = Moving(self.mean, self.std)
        other.where = device
        return other


def test_noise_laws_move_with_their_parts() -> None:
    mine = UserLaw(1, lambda n, rng: torch.zeros(n, 1), lambda x: x[..., 0])
    both = moved(Mixture([Moving(0.0, 1.0), mine], [0.25, 0.75]), "cuda:3")
    assert isinstance(both, Mixture)
    assert both.weights == (0.25, 0.75)
    assert isinstance(both.laws[0], Moving)
    assert both.laws[0].where == "cuda:3"
    assert both.laws[1] is mine  # a user's functions are the user's to move


def test_what_is_refused() -> None:
    for values, word in (
        ({"steps": 0}, "steps"),
        ({"lr": math.inf}, "lr"),
        ({"average": 1.0}, "average"),
        ({"weight_decay": 0.1}, "adamw only"),
        ({"beta": 0.5}, "sgd and normalised"),
        ({"optimiser": "lion"}, "optimiser"),
        ({"precision": "fp8"}, "precision"),
    ):
        with pytest.raises(RlcError, match=word):
            TrainConfig(**values)  # type: ignore[arg-type]
    for name in ("tpu", "cuda:x", "cpu:-1"):
        with pytest.raises(RlcError, match="device"):
            resolve_device(name)
    x = data()
    f = MLPEnergy.for_data(x, rng=gen(0))
    config = TrainConfig(steps=2, device="cpu")
    with pytest.raises(RlcError, match="dimension 3, the data have 2"):
        Trainer(f, make("nce"), x, q=Gaussian(torch.zeros(3), torch.eye(3)), config=config, rng_seed=0)
    with pytest.raises(RlcError, match="needs a noise law"):
        Trainer(f, make("cd"), x, q=None, config=TrainConfig(noise_batch=3, device="cpu"), rng_seed=0)
    with pytest.raises(RlcError, match="no parameters"):
        Trainer(nn.Identity(), make("nce"), x, q=None, config=config, rng_seed=0)
    with pytest.raises(RlcError, match="finite"):
        Trainer(f, make("nce"), x * math.nan, q=None, config=config, rng_seed=0)


FAR = Gaussian(torch.full((2,), 30.0), 0.01 * torch.eye(2))


@pytest.mark.parametrize("name", ["nce", "ence", "meco", "snis", "infonce", "fce"])
def test_noise_that_does_not_cover_the_data_is_refused_unless_asked_for(name: str) -> None:
    x = torch.randn(500, 2, generator=gen(0))
    f, config = MLPEnergy.for_data(x, MLPConfig(hidden=(8,)), rng=gen(0)), TrainConfig(steps=2, device="cpu")
    with pytest.raises(RlcError, match=r"noise: 100\.0% of 500 data points lie where the law puts less than"):
        Trainer(f, make(name), x, q=FAR, config=config, rng_seed=0)
    Trainer(f, make(name), x, q=FAR, config=config, rng_seed=0, allow_uncovered=True).run()
    box = Uniform(torch.full((2,), -1.0), torch.full((2,), 1.0))
    with pytest.raises(RlcError, match=r"noise: the law has density 0 at .* of 500 data points; widen it"):
        Trainer(f, make(name), x, q=box, config=config, rng_seed=0)
    covered = defended(FAR, Gaussian.fit(x, inflate=2.0), share=0.1)
    Trainer(f, make(name), x, q=covered, config=config, rng_seed=0).run()


def test_of_many_data_some_are_looked_at_and_no_stream_moves() -> None:
    """50 000 points, of which a fifth is far away; the first batch is the same with the check and without."""
    x = torch.randn(50_000, 2, generator=gen(0))
    x[::5] += 40.0
    f, config = MLPEnergy.for_data(x, MLPConfig(hidden=(8,)), rng=gen(0)), TrainConfig(steps=2, device="cpu")
    with pytest.raises(RlcError, match=r"noise: (1|2)\d\.\d% of 2000 data points"):
        Trainer(f, make("nce"), x, q=Gaussian(torch.zeros(2), torch.eye(2)), config=config, rng_seed=0)
    wide, batches = Gaussian.fit(x, inflate=2.0), []
    for allowed in (False, True):
        t = Trainer(f, make("nce"), x, q=wide, config=config, rng_seed=0, allow_uncovered=allowed)
        batches.append(torch.cat([t._batch(), wide.sample(9, rng=t._noise_rng)]))
    assert torch.equal(*batches)


def test_what_is_not_finite_stops_with_a_sentence() -> None:
    x = data()
    f = MLPEnergy.for_data(x, MLPConfig(hidden=(8,)), rng=gen(0))
    config = TrainConfig(steps=400, lr=1e18, optimiser="sgd", device="cpu")
    t = Trainer(f, make("meco"), x, q=Gaussian.fit(x), config=config, rng_seed=0)
    with pytest.raises(RlcError, match="NaN or infinite at step"):
        t.run()

    class Spike(QuadraticEnergy):
        """Finite, with an infinite slope at 0."""

        def forward(self, x: Tensor) -> Tensor:
            return (self.theta[0] * x[..., 0] * 0.0).abs().sqrt() + self.theta[1] * 0.0

    t = Trainer(Spike((0.0, 1.0)), make("nce"), x[:, :1], q=GaussianLaw(0.0, 1.0), config=config, rng_seed=0)
    with pytest.raises(RlcError, match="gradient is NaN or infinite at step 0"):
        t.run()


def test_another_config_or_energy_is_refused_on_load() -> None:
    saved = trainer().state_dict()
    with pytest.raises(RlcError, match="another configuration"):
        trainer(lr=1e-4).load_state_dict(saved)
    x = data()
    f = MLPEnergy.for_data(x, MLPConfig(hidden=(8, 8)), rng=gen(1))
    other = Trainer(f, make("meco"), x, q=Gaussian.fit(x), config=trainer().config, rng_seed=0)
    with pytest.raises(RlcError, match="another energy"):
        other.load_state_dict(saved)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"gamma": 0.5, "correction": "ratio"}])
def test_a_compiled_network_takes_the_same_steps_and_resumes_without(options: dict[str, Any]) -> None:
    compiled, plain = trainer("meco", options, compile=True), trainer("meco", options)
    compiled.run(20)
    plain.run()
    resumed = trainer("meco", options)
    resumed.load_state_dict(compiled.state_dict())
    resumed.run()
    assert torch.allclose(weights(resumed.f), weights(plain.f), atol=1e-5)
