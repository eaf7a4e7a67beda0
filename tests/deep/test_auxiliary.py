"""A loss of embeddings beside Q and G: off it is not there, on it shapes the encoder and survives a checkpoint."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from rl_contrastive import make_agent, make_env, registry, train
from rl_contrastive.cli import main
from rl_contrastive.errors import RlcError
from rl_contrastive.objectives.base import NoOptions, ObjectiveResult
from rl_contrastive.objectives.views import ViewObjective, Views
from rl_contrastive.registry import Entry

SMALL = {"batch_size": 16, "encoder": {"hidden": (16,)}, "feature_encoder": {"hidden": (16,)}}
REPRESENTATION = {"dim": 4, "hidden": 8}


class Remembering(ViewObjective):
    """Learns a scale, counts its slots, draws noise, reads labels."""

    needs = frozenset({"index", "label"})

    def __init__(self, config: NoOptions | None = None) -> None:
        self.resets: list[int] = []

    def initial(self, slots: int, dim: int) -> dict[str, torch.Tensor]:
        return {"met": torch.zeros(slots), "scale": torch.nn.Parameter(torch.randn(dim))}

    def reset(self, state: Any, slots: torch.Tensor) -> Any:
        self.resets += slots.tolist()
        return {**state, "met": state["met"].index_fill(0, slots, 0.0)}

    def loss(self, views: Views, state: Any) -> Any:
        assert views.index is not None
        assert views.label is not None
        met = state["met"].index_add(0, views.index, torch.ones(len(views.index)))
        z = views.z * state["scale"] + 0.01 * torch.randn(views.z.shape)
        rows = (z[0] - z[1]).square().sum(-1) * (1 + views.label.abs()) / (1 + met[views.index])
        return ObjectiveResult(rows.mean(), rows), {**state, "met": met}


@pytest.fixture
def remembering(monkeypatch: pytest.MonkeyPatch) -> str:
    registry.entries("view-objective")
    entry = Entry("view-objective", "remembering", Remembering, NoOptions, "")
    monkeypatch.setitem(registry._ENTRIES, ("view-objective", "remembering"), entry)
    return "remembering"


def agent_of(auxiliary: dict[str, Any] | None, *, size: int = 4, seed: int = 0, **options: Any) -> Any:
    env = make_env("deep-sea", num_envs=4, size=size)
    learner = {**SMALL, "representation": REPRESENTATION, "device": "cpu", **options.pop("learner", {})}
    if auxiliary is not None:
        learner["auxiliary"] = {"dim": 8, "hidden": 8, **auxiliary}
    return make_agent("contrastive-ucb-deep", env, seed=seed, warm_start=30, learner=learner, **options), env


def played(agent: Any, env: Any, episodes: int = 40) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = train(agent, env, episodes=episodes, eval_every=20, eval_episodes=4).history
    return lines


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return np.array_equal(a, b, equal_nan=True) if isinstance(a, np.ndarray) else bool(a == b)


def usable(name: str) -> bool:
    objective = registry.build("view-objective", name)
    return objective.least_views <= 2 and objective.needs <= {"label", "index"}


NAMES = [entry.name for entry in registry.entries("view-objective")]


@pytest.mark.parametrize("name", NAMES)
def test_every_objective_trains_or_is_refused(name: str) -> None:
    if not usable(name):
        with pytest.raises(RlcError, match="auxiliary"):
            agent_of({"objective": name})
        return
    lines = played(*agent_of({"objective": name}))
    assert np.isfinite(lines[-1]["agent/loss_auxiliary"])


def test_weight_0_is_the_agent_without_it_to_the_byte() -> None:
    plain, off = agent_of(None), agent_of({"objective": "nt-xent", "weight": 0.0})
    assert played(*plain) == played(*off)
    assert equal(plain[0].state_dict(), off[0].state_dict())


@pytest.mark.long
def test_it_shapes_the_encoder_and_leaves_the_first_weights() -> None:
    plain, on = agent_of(None)[0], agent_of({"objective": "nt-xent"})[0]
    first, mine = plain.learner.state_dict(), on.learner.state_dict()
    assert equal(first["values"], mine["values"])
    assert equal(first["features"], mine["features"])
    agent, env = agent_of({"objective": "nt-xent", "weight": 10.0})
    losses = [line["agent/loss_auxiliary"] for line in played(agent, env, 200)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_a_resumed_agent_goes_on_to_the_same_bytes(remembering: str, alpha: float) -> None:
    options = {"alpha": alpha, "capacity": 100}  # the replay overwrites slots
    whole, env = agent_of({"objective": remembering}, **options)
    half, _ = agent_of({"objective": remembering}, **options)

    def go_on(agent: Any, first: int, last: int) -> None:
        from rl_contrastive.runs.rollout import play

        for k in range(first, last):
            agent.begin(4)
            for step in play(env, [4 * k + i for i in range(4)], agent.act):
                agent.observe(step)
            agent.update()

    go_on(whole, 0, 20)
    go_on(half, 0, 10)
    torch.manual_seed(7)
    again, _ = agent_of({"objective": remembering}, seed=1, **options)
    again.load_state_dict(half.state_dict())
    go_on(again, 10, 20)
    assert equal(whole.state_dict(), again.state_dict())
    module = whole.learner.auxiliary
    assert module.objective.resets
    assert set(module.objective.resets) <= set(range(100))
    assert int(module.seen) <= whole.replay.ring.total


def test_a_slot_that_is_overwritten_is_forgotten_once(remembering: str) -> None:
    agent, _ = agent_of({"objective": remembering}, capacity=100)
    module = agent.learner.auxiliary
    module.state_met.fill_(1.0)
    module._forget(30)
    module._forget(30)
    assert module.objective.resets == list(range(30))
    module._forget(105)
    assert module.state_met.sum() == 0
    module.objective.resets.clear()
    module._forget(1000)
    assert sorted(module.objective.resets) == list(range(100))


def test_two_shifts_of_a_frame_are_views() -> None:
    from rl_contrastive.config import from_dict
    from rl_contrastive.deep.bonus_contract import NoBonus
    from rl_contrastive.deep.config import DeepLearnerConfig
    from rl_contrastive.deep.learner import DeepLearner
    from rl_contrastive.deep.replay.replay import Replay
    from rl_contrastive.spec import EnvSpec

    spec = EnvSpec("frames", 3, 8, (1, 36, 36), "uint8")
    auxiliary = {"objective": "nt-xent", "views": "shift", "dim": 8, "hidden": 8}
    options = {**SMALL, "encoder": {"hidden": (16,)}, "auxiliary": auxiliary, "device": "cpu", "learn_features": False}
    net = DeepLearner(spec, spec.obs_shape, from_dict(DeepLearnerConfig, options), seed=0)
    replay, rng = Replay(200, spec.obs_shape, spec.obs_dtype, gamma=0.9), np.random.default_rng(0)
    replay.begin(4)
    frames = rng.integers(0, 255, size=(9, 4, 1, 36, 36)).astype(np.uint8)
    for h in range(8):
        last = np.full(4, h == 7)
        replay.add(frames[h], rng.integers(3, size=4), np.zeros(4), frames[h + 1], 1.0 - last, last, ~np.zeros(4, bool))
    losses = [float(net.step(replay, NoBonus(3), rng=rng)["loss_auxiliary"]) for _ in range(40)]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown name": ({"objective": "nt-xend"}, "did you mean"),
    "an unknown option": ({"objective": "nt-xent", "objective_options": {"temperatur": 1.0}}, "temperatur"),
    "shifts of vectors": ({"objective": "nt-xent", "views": "shift"}, "only for the encoders"),
    "a negative weight": ({"objective": "nt-xent", "weight": -1.0}, "weight"),
    "another kind of views": ({"objective": "nt-xent", "views": "crop"}, "views"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_options_are_a_sentence(case: str) -> None:
    options, words = BAD[case]
    with pytest.raises(RlcError, match=words):
        agent_of(options)


def test_compile_is_refused() -> None:
    with pytest.raises(RlcError, match="compile"):
        agent_of({"objective": "nt-xent"}, learner={"compile": True})


def test_the_options_of_an_objective_stand_on_the_command_line(tmp_path, capsys) -> None:
    words = ["run", "contrastive-ucb-deep", "deep-sea", "--env.size", "4", "--episodes", "20", "--no-tensorboard"]
    words += ["--eval-every", "20", "--eval-episodes", "5", "--agent.batch", "4", "--agent.warm-start", "20"]
    flag = "--agent.learner.auxiliary.objective"
    assert main([*words, flag, "nt-xent", f"{flag}-options.temperature", "0.5", "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    assert main([*words, flag, "nt-xent", f"{flag}-options.temperature", "0", "--out", str(tmp_path / "b")]) == 2
    assert "temperature" in capsys.readouterr().err


def test_an_old_config_reads_as_off() -> None:
    from rl_contrastive.deep.config import AuxiliaryConfig

    assert AuxiliaryConfig().objective == ""
    assert next(f.name for f in dataclasses.fields(AuxiliaryConfig)) == "objective"
