"""Objectives that remember something of each slot of the replay: entries, overwritten slots, checkpoints."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rl_contrastive import make_agent, make_env
from rl_contrastive.cli import main
from rl_contrastive.deep.config import EncoderConfig, RepresentationConfig
from rl_contrastive.deep.feature_net import FeatureConfig, ObsLayout
from rl_contrastive.deep.replay.ring import written
from rl_contrastive.deep.representation import Representation
from rl_contrastive.deep.transition_learner import TransitionLearner
from rl_contrastive.errors import RlcError
from rl_contrastive.objectives.base import Contrast, Sizes
from rl_contrastive.runs.rollout import play

NAMES = ("meco-keyed", "isogclr")
WIDTH, A, D, SLOTS = 5, 3, 4, 12


def heads(name: str, slots: int = SLOTS) -> Representation:
    config = RepresentationConfig(dim=D, hidden=0, objective=name)
    return Representation(WIDTH, A, config, rng=torch.Generator().manual_seed(1), slots=slots)


def rows(n: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return (
        torch.randn((n, WIDTH), generator=g),
        torch.randint(A, (n,), generator=g),
        torch.randn((n, WIDTH), generator=g),
    )


def entries(net: Representation) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net._state().items()}


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return np.array_equal(a, b, equal_nan=True) if isinstance(a, np.ndarray) else bool(a == b)


@pytest.mark.parametrize("name", NAMES)
def test_entries_of_a_batch_move_as_in_the_whole_table(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The objective on the whole table is the oracle; slot 3 is drawn three times, slot 7 twice."""
    net = heads(name)
    seen: list[Contrast] = []
    step = net.objective.step
    monkeypatch.setattr(net.objective, "step", lambda batch, state: (seen.append(batch), step(batch, state))[1])
    table = net.objective.initial(Sizes(1, SLOTS, D))
    for seed, ids in enumerate([[3, 0, 3, 7, 11, 7, 3], [1, 3, 2, 0, 5, 5, 6], [3, 3, 3, 3, 3, 3, 3]]):
        loss = net.contrast(*rows(7, seed), ids=torch.tensor(ids))
        batch = seen[-1]
        whole = Contrast(**{**vars(batch), "ids": torch.tensor([ids])})
        result, table = step(whole, table)
        assert float(loss.detach()) == pytest.approx(float(result.loss.detach()), rel=1e-6)
        for key, value in entries(net).items():
            torch.testing.assert_close(value, table[key], equal_nan=True, rtol=1e-12, atol=0.0)
    assert torch.isnan(net._state()["log_u"][0, [4, 8, 9, 10]]).all()  # never drawn


@pytest.mark.parametrize("name", NAMES)
def test_an_overwritten_slot_begins_anew_and_no_other(name: str) -> None:
    net = heads(name)
    net.forget(12)
    net.contrast(*rows(12), ids=torch.arange(12))
    before, fresh = entries(net), net.objective.initial(Sizes(1, SLOTS, D))
    assert all(torch.isfinite(value).all() for value in before.values())
    net.forget(12)  # nothing new
    assert all(torch.equal(value, before[key]) for key, value in entries(net).items())
    net.forget(15)  # slots 0, 1, 2
    for key, value in entries(net).items():
        assert torch.equal(value[:, 3:], before[key][:, 3:])
        torch.testing.assert_close(value[:, :3], fresh[key][:, :3], equal_nan=True, rtol=0.0, atol=0.0)
    net.forget(1000)  # more than there are slots
    for key, value in entries(net).items():
        torch.testing.assert_close(value, fresh[key], equal_nan=True, rtol=0.0, atol=0.0)


def test_slots_that_were_written() -> None:
    assert written(3, 5, 4).tolist() == [3, 0]
    assert written(0, 11, 4).tolist() == [3, 0, 1, 2]
    assert written(5, 5, 4).tolist() == []


def test_in_evaluation_nothing_is_remembered() -> None:
    net = heads("meco-keyed").eval()
    net.contrast(*rows(4), ids=torch.arange(4))
    assert torch.isnan(net._state()["log_u"]).all()


def test_a_batch_without_slots_is_refused() -> None:
    with pytest.raises(RlcError, match="a keyed objective needs `ids`"):
        heads("isogclr").contrast(*rows(4))


def test_other_objectives_have_no_entries() -> None:
    assert "seen" not in heads("infonce").state_dict()
    assert heads("meco").state_dict()["state_log_u"].shape == (1, D)


def agent_of(name: str, alpha: float = 0.0, *, seed: int = 0) -> tuple[Any, Any]:
    learner = {
        "batch_size": 16,
        "encoder": {"hidden": (16,)},
        "feature_encoder": {"hidden": (16,)},
        "representation": {"dim": D, "hidden": 8, "objective": name},
        "device": "cpu",
    }
    env = make_env("deep-sea", num_envs=4, size=4)
    return make_agent(
        "contrastive-ucb-deep", env, seed=seed, warm_start=30, capacity=100, alpha=alpha, train_every=2, learner=learner
    ), env


def go_on(agent: Any, env: Any, first: int, last: int) -> None:
    for k in range(first, last):
        agent.begin(4)
        for step in play(env, [4 * k + i for i in range(4)], agent.act):
            agent.observe(step)
        agent.update()


@pytest.mark.parametrize(("name", "alpha"), [("meco-keyed", 0.0), ("meco-keyed", 0.5), ("isogclr", 0.0)])
def test_a_resumed_agent_goes_on_to_the_same_bytes(name: str, alpha: float) -> None:
    (whole, env), (half, other) = agent_of(name, alpha), agent_of(name, alpha)
    go_on(whole, env, 0, 9)
    go_on(half, other, 0, 5)
    again, third = agent_of(name, alpha, seed=1)
    again.load_state_dict(half.state_dict())
    go_on(again, third, 5, 9)
    assert whole.replay.ring.total > 150  # each slot was overwritten
    assert same(whole.state_dict(), again.state_dict())
    forgetful, fourth = agent_of(name, alpha, seed=1)  # the control: without the entries it goes on otherwise
    state = half.state_dict()
    fresh = forgetful.learner.features.state_dict()["online"]
    online = state["learner"]["features"]["online"]
    online |= {key: fresh[key] for key in online if key.startswith("heads.state_")}
    forgetful.load_state_dict(state)
    go_on(forgetful, fourth, 5, 9)
    assert not same(whole.state_dict(), forgetful.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_in_training_the_entries_are_those_of_the_transitions_in_the_replay(name: str) -> None:
    agent, env = agent_of(name)
    go_on(agent, env, 0, 16)
    net, ring = agent.learner.features.online.heads, agent.replay.ring
    late = written(int(net.seen), ring.total, ring.capacity)  # what the next step will forget
    net.forget(ring.total)
    log_u = net._state()["log_u"][0]
    assert torch.isnan(log_u[torch.as_tensor(late)]).all()
    assert torch.isfinite(log_u).sum() > 10
    # Final observations are never drawn, so their slots know nothing, whatever was there before.
    final = torch.as_tensor(ring.action < 0)
    assert final.any()
    assert torch.isnan(log_u[final]).all()


def test_a_memory_of_its_own_forgets_what_it_overwrites() -> None:
    config = FeatureConfig(
        EncoderConfig(hidden=(8,)), RepresentationConfig(dim=D, hidden=8, objective="meco-keyed"), 20, 8, device="cpu"
    )
    rng = np.random.default_rng(0)
    learner = TransitionLearner(ObsLayout((3,), "float32"), A, config, rng=rng)
    store = lambda n: learner.store(  # noqa: E731
        rng.normal(size=(n, 3)).astype(np.float32), rng.integers(A, size=n), rng.normal(size=(n, 3)).astype(np.float32)
    )
    store(20)
    for _ in range(20):
        learner.step()
    log_u = learner.net.online.heads._state()["log_u"][0]
    assert torch.isfinite(log_u).all()
    store(5)
    learner.net.slots(np.arange(2), learner.stored)
    assert torch.isnan(log_u[:5]).all()
    assert torch.isfinite(log_u[5:]).all()


@pytest.mark.long
def test_the_command_runs_it(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"objective": "meco-keyed", "objective-options.gamma": "0.3"}
    words = [word for key, value in options.items() for word in (f"--agent.learner.representation.{key}", value)]
    small = ["--steps", "200", "--agent.warm-start", "50", "--agent.capacity", "100", "--eval-episodes", "2"]
    assert main(["run", "contrastive-ucb-deep", "gym:CartPole-v1", *words, *small, "--out", "out"]) == 0
