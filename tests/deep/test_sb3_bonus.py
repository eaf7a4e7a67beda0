"""Every kind of bonus inside Stable-Baselines3: equal to that of the deep agent, with rows that end one by one."""

from __future__ import annotations

import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bridge_common import SMALL, assert_same, features_are, played, scripted, walk, wrapped
from deep_common import Walk
from stable_baselines3 import DQN, PPO

from rl_contrastive.bridges.sb3 import BonusEnvConfig, BonusVecEnv, EllipticalBonusConfig, EllipticalBonusVecEnv
from rl_contrastive.config import from_dict
from rl_contrastive.deep.agent_config import ContrastiveUCBDeepConfig
from rl_contrastive.deep.bonus_config import KINDS, BonusConfig
from rl_contrastive.deep.build_bonus import BonusBuilder
from rl_contrastive.deep.weights import weights
from rl_contrastive.errors import RlcError
from rl_contrastive.seeding import SeedTree
from rl_contrastive.spec import EnvSpec

VARIANTS: list[dict[str, Any]] = [
    *({"kind": kind, "lam": 0.1} for kind in KINDS),
    {"kind": "ours-arrival", "gate": "cells", "rho": 0.5, "unit": True},
    {"kind": "ours-arrival", "gate": "ellipse", "lifelong": "ellipse", "difference": 0.1, "features": "drawn"},
    {"kind": "ours-arrival", "same": "features", "past": 6},
    {"kind": "ours-both", "gate": "tried", "unit": True, "past": 6},
    {"kind": "rnd", "gate": "tried", "same": "features"},
    {"kind": "tiles", "gate": "tried", "same": "features"},
    {"kind": "none"},
]
CELLS = {"width": 1e-3, "tilings": 2, "directions": 3}
"""Each state has cells of its own, whatever the directions are."""
EYE = np.eye(6)
EPISODES = [[0, 1, 0, 2, 1], [3, 3, 4], [0, 1], [5, 0, 5, 0, 1, 2, 2], [1, 2, 3, 4, 5, 0]]
ACTIONS = [0, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0, 1, 0, 1, 0, 1, 1]
STEPS = sum(len(states) - 1 for states in EPISODES)


def used(bonus: dict[str, Any], lam: float) -> dict[str, Any]:
    """The bonus with `CELLS` and lambda, as far as its parts have them: the deep agent refuses options without use."""
    parts = from_dict(BonusConfig, bonus).parts
    found = ("none", "none") if parts is None else (parts.lifelong, parts.gate)
    counted = found[0] in ("cells", "ellipse", "counts")
    return {**(CELLS if "cells" in found else {}), **bonus, **({"lam": lam} if counted else {})}


def deep_agents(bonus: dict[str, Any], env: BonusVecEnv) -> np.ndarray:
    """What the deep agent pays for the walk of one row at each step, by the counts that include it."""
    learner = {
        "encoder": {**SMALL["encoder"], "layer_norm": False},
        "feature_encoder": SMALL["encoder"],
        "representation": {"dim": 6},
    }
    options = {"bonus": bonus, "learner": learner, "beta": 1.0, "rnd": {"dim": 8, "hidden": 8, "batch_size": 4}}
    config = from_dict(ContrastiveUCBDeepConfig, options)
    spec = EnvSpec("walk", num_actions=2, horizon=9, obs_shape=(), obs_dtype="int64", num_states=6)
    own, close = env.bonus_config.counted_features.representation, env.bonus.closeness
    paid: list[float] = []

    def make(replay: Any, features_of: Any) -> Any:
        found = BonusBuilder(config, own, spec, replay, features_of, close, SeedTree(0)).build()
        if env.bonus_config.counts.parts is not None and env.bonus_config.counts.parts.lifelong == "rnd":
            inner = getattr(found, "inner", found)
            inner.lifelong.rnd.load_state_dict(env.bonus.arrivals.lifelong.rnd.state_dict())
        watch = found.watch

        def spy(step: Any) -> None:
            watch(step)
            paid.extend(found.taken(step.index, step.action).tolist())

        found.watch = spy
        return found

    row, start = Walk(make, EYE if close is None else NEAR, capacity=60), 0
    for states in EPISODES:
        row.episode(states, actions=ACTIONS[start:])
        start += len(states) - 1
    return np.array(paid)


NEAR = np.array([[0.0] * 6, [0.1] + [0.0] * 5, [3.0] * 6, [3.0] * 5 + [3.1], [7.0] * 6, [9.0] * 6])
"""States 0 and 1 look alike, and so do 2 and 3."""


@pytest.mark.parametrize(
    "bonus",
    [
        *({"kind": kind} for kind in KINDS),
        {"kind": "ours-arrival", "gate": "cells"},
        {"kind": "ours-arrival", "gate": "ellipse", "lifelong": "ellipse"},
        {"kind": "counts", "gate": "tried", "unit": True},
        {"kind": "ours-both", "gate": "tried"},
        {"kind": "ours-both", "gate": "nearest", "unit": True},
        {"kind": "tiles", "pays": "both"},
        {"kind": "noveld", "same": "features"},
        {"kind": "ours-arrival", "gate": "tried", "same": "features"},
        {"kind": "none"},
    ],
    ids=str,
)
def test_it_pays_what_the_deep_agent_pays_on_the_same_walk(bonus: dict[str, Any]) -> None:
    """The agent's counts include the step: one visit more, so that lambda is one more here."""
    env = scripted([EPISODES], EYE, {**CELLS, **bonus, "lam": 1.5})
    if env.bonus.closeness is not None:
        env.bonus.closeness.radius = 0.5
        features_are(env, NEAR)
    expected = deep_agents(used(bonus, 0.5), env)
    paid = played(env, [[action] for action in ACTIONS[:STEPS]])[:, 0]
    np.testing.assert_allclose(paid, expected, rtol=1e-5, atol=1e-7)
    assert bonus["kind"] == "none" or (paid > 0).sum() >= 4


def brute_force(rows: list[list[list[int]]], steps: int, lam: float, alpha: float = 0.0) -> np.ndarray:
    """max(l(s') - alpha l(s), 0) 1[s' is new in the episode] by exact counts of before, (steps, B)."""
    N: Counter[int] = Counter()
    at, h, out = [0] * len(rows), [0] * len(rows), np.zeros((steps, len(rows)))
    for t in range(steps):
        now = [rows[i][at[i]] for i in range(len(rows))]
        N.update(states[0] for states, k in zip(now, h, strict=True) if k == 0)
        for i, (states, k) in enumerate(zip(now, h, strict=True)):
            difference = (lam + N[states[k + 1]]) ** -0.5 - alpha * (lam + N[states[k]]) ** -0.5
            out[t, i] = max(difference, 0.0) * (states[k + 1] not in states[: k + 1])
        N.update(states[k + 1] for states, k in zip(now, h, strict=True))
        for i, states in enumerate(now):
            h[i] += 1
            if h[i] == len(states) - 1:
                at[i], h[i] = at[i] + 1, 0
    return out


ROWS = [EPISODES, [[2, 3, 4], [0, 1, 1, 0, 2], [4, 5], [3, 2, 1, 0, 4, 5], [0, 5, 5, 5, 5, 1]], EPISODES[::-1]]


@pytest.mark.parametrize("kind", ["counts", "ours-arrival"])
@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_rows_that_end_at_different_times_by_brute_force(kind: str, alpha: float) -> None:
    env = scripted(ROWS, EYE, {**CELLS, "kind": kind, "lam": 0.2, "difference": alpha}, beta=0.3)
    expected = 0.3 * brute_force(ROWS, 16, 0.2, alpha)
    np.testing.assert_allclose(played(env, [[0] * 3] * 16), expected, rtol=1e-5)
    assert (expected > 0).any(axis=0).all()


@pytest.mark.parametrize("gate", ["first", "cells", "ellipse", "e3b", "tried"])
def test_the_gate_of_a_row_is_that_of_the_row_alone(gate: str) -> None:
    bonus = {**CELLS, "kind": "e3b", "gate": gate}
    together = played(scripted(ROWS, EYE, bonus), [[a] * 3 for a in ACTIONS[:16]])
    for i, row in enumerate(ROWS):
        alone = played(scripted([row], EYE, bonus), [[a] for a in ACTIONS[:16]])
        np.testing.assert_allclose(together[:, i], alone[:, 0], rtol=1e-6)
    assert len(np.unique(together.round(6), axis=1).T) == 3  # the rows differ


def test_the_predictor_learns_from_each_successor_once_in_batches() -> None:
    """Its state after 14 steps of three rows is that of a twin taught 10 whole batches of 4 by hand."""
    env, twin = (scripted(ROWS, EYE, {"kind": "noveld"}, warm_start=12) for _ in range(2))
    rnd, seen = twin.bonus.arrivals.lifelong.rnd, []
    for t in range(14):
        waiting = env.bonus.arrivals.lifelong.started
        assert waiting == (3 * t >= 12)
        obs, _, dones, infos = env.step(np.zeros(3, dtype=int))
        seen += [info["terminal_observation"] if end else o for o, end, info in zip(obs, dones, infos, strict=True)]
    for k in range(10):
        rnd.visit(np.array(seen[4 * k : 4 * k + 4]))
    assert_same(env.bonus.arrivals.lifelong.rnd.state_dict(), rnd.state_dict())
    assert [int(s) for s in env.bonus.arrivals.lifelong.waiting] == [int(s) for s in seen[40:]]
    # l(s') - l(s) / 2 of what the networks say before the step, where s' is new in the episode.
    obs = np.array(env._obs)
    l_now = rnd.bonus(obs)
    after, paid, dones, infos = env.step(np.zeros(3, dtype=int))
    after = np.array([i["terminal_observation"] if end else o for o, end, i in zip(after, dones, infos, strict=True)])
    expected = np.maximum(rnd.bonus(after) - 0.5 * l_now, 0.0)
    assert all(p == 0 or p == pytest.approx(e, rel=1e-5) for p, e in zip(paid, expected, strict=True))
    assert (paid > 0).any()


@pytest.mark.parametrize("kind", ["ours-arrival", "ours-both"])
def test_every_observation_is_counted_once_in_the_memory_or_outside(kind: str) -> None:
    env = wrapped(3, counts={"kind": kind, **CELLS, "lam": 0.1}, features={**SMALL, "capacity": 30}, growth=0.05)
    features_are(env, np.eye(5, 6))
    seen, pairs = Counter(env.reset().tolist()), Counter()
    rng = np.random.default_rng(3)
    for t in range(70):
        actions = (rng.random(3) < 0.7).astype(np.int64)
        pairs.update(zip(env._obs.tolist(), actions.tolist(), strict=True))
        obs, _, dones, infos = env.step(actions)
        seen.update(obs.tolist())
        seen.update(infos[i]["terminal_observation"] for i in np.flatnonzero(dones))
        if t == 40:  # a reset from outside ends the going episodes
            seen.update(env.reset().tolist())
    begun = env._episodes.episodes + int(env._begins.sum())  # these show an observation that is counted with a step
    assert env.learner.stored + begun == sum(seen.values())
    for row in np.flatnonzero(env._begins):
        seen[int(env._obs[row])] -= 1
    env._rebuild()
    states = np.arange(5)
    expected = (0.1 + np.array([seen[s] for s in range(5)])) ** -0.5
    np.testing.assert_allclose(env.bonus.arrivals.lifelong.now(states, np.eye(5, 6)), expected, rtol=1e-9)
    if kind == "ours-both":
        by_action = np.array([[pairs[s, a] for a in (0, 1)] for s in range(5)])
        found = env.counts.value(np.eye(5, 6)[:, None])
        np.testing.assert_allclose(found, 0.05 * (0.1 + by_action) ** -0.5, rtol=1e-6)


def test_a_rebuild_within_an_episode_computes_its_past_again() -> None:
    of = np.eye(6)
    env = scripted([[[0, 1, 2, 3, 4]], [[5, 4], [3, 3, 3, 2]]], of, {"kind": "e3b", "gate_lam": 1.0})
    played(env, [[0, 0], [0, 0], [0, 0]])
    features_are(env, np.ones((6, 6)))
    env._rebuild()
    for row, seen in ((0, 4), (1, 3)):  # 0 1 2 3, and 3 3 3 of its second episode
        dense = np.linalg.inv(np.eye(6) + seen * np.ones((6, 6)))
        np.testing.assert_allclose(env.bonus.arrivals.gate.inverse[row], dense, atol=1e-12)


def test_names_by_features_are_compared_by_the_new_ones_after_a_rebuild() -> None:
    env = scripted([[[0, 1, 0, 1, 1]]], EYE, {"kind": "rnd", "gate": "tried", "same": "features", "lifelong": "none"})
    assert played(env, [[0], [0], [1]])[:, 0].tolist() == [1.0, 1.0, 0.5]
    features_are(env, NEAR)
    env.bonus.closeness.reach = 1e-9
    env._rebuild()
    env.bonus.closeness.radius = 0.5
    assert played(env, [[1]])[:, 0].tolist() == [0.5]  # 1 was met once; its name is from before


@pytest.mark.parametrize("bonus", VARIANTS, ids=str)
def test_a_saved_state_goes_on_to_the_same_bytes(bonus: dict[str, Any]) -> None:
    options = {"features": {**SMALL, "capacity": 60}, "rnd": {"dim": 8, "hidden": 8, "batch_size": 8}}

    def make(seed: int) -> BonusVecEnv:
        return wrapped(3, counts=bonus, seed=seed, train_every=4, **options)

    env, other = make(0), make(5)
    env.reset()
    walk(env, 45)
    state = env.state_dict()
    env.reset()
    other.load_state_dict(state)
    other.reset()
    rewards = walk(env, 20, seed=2)
    assert_same(walk(other, 20, seed=2), rewards)
    assert_same(other.state_dict(), env.state_dict())
    env.training = False
    env.reset()
    assert set(np.concatenate(walk(env, 10)).tolist()) <= {0.0, 1.0}
    assert_same(other.state_dict(), env.state_dict())
    assert (np.concatenate(rewards).max() > 1) == (bonus["kind"] != "none")
    for key in state:
        with pytest.raises(RlcError, match=f"lacks '{key}'"):
            make(1).load_state_dict({name: value for name, value in state.items() if name != key})


def test_evaluation_in_between_cuts_the_episodes() -> None:
    """What was reached meanwhile is not in the gate, and the state in which training goes on begins an episode."""
    env = scripted([[[0, 1, 2, 3, 1, 0]]], EYE, {"kind": "counts", "lam": 1.0})
    paid = played(env, [[0]])
    env.training = False
    assert not played(env, [[0], [0]]).any()
    env.training = True
    np.testing.assert_allclose([*paid[:, 0], *played(env, [[0]])[:, 0]], [1.0, 2.0**-0.5])
    assert env.bonus.arrivals.lifelong.report() == {"distinct": 3.0}  # 0, 1, 3 and not 2


@pytest.mark.parametrize("algorithm", [PPO, DQN])
@pytest.mark.parametrize("kind", ["ours-arrival", "noveld", "e3b"])
def test_sb3_learns_with_it_and_repeats_it(algorithm: Any, kind: str) -> None:
    fields = {"n_steps": 32, "batch_size": 32} if algorithm is PPO else {"learning_starts": 8, "train_freq": 2}
    results = []
    for _ in range(2):
        env = wrapped(kind="floats", seed=3, counts={"kind": kind, "lam": 0.1}, beta=0.5)
        model = algorithm("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, seed=0, device="cpu", **fields)
        model.learn(128)
        buffer = model.rollout_buffer.rewards if algorithm is PPO else model.replay_buffer.rewards[:64]
        assert ((buffer > 0) & (buffer != 1)).any()
        results.append((weights(model.policy), env.state_dict()))
    assert_same(*results)


def test_what_does_not_fit_is_refused() -> None:
    assert EllipticalBonusVecEnv is BonusVecEnv
    assert EllipticalBonusConfig is BonusEnvConfig
    assert BonusEnvConfig().counts == BonusConfig(kind="elliptical", lam=0.001)
    with pytest.raises(RlcError, match="rng must be a generator of numpy"):
        BonusVecEnv(wrapped(counts={"kind": "none"}).venv, rng=0)
    with pytest.raises(RlcError, match="the kind noveld learns no features"):
        wrapped(counts={"kind": "noveld"}).learner.step()
    with pytest.raises(RlcError, match="the kind noveld counts no pairs"):
        wrapped(counts={"kind": "noveld"}).counts.value(EYE)
    two, three = (wrapped(n, counts={"kind": "etd"}) for n in (2, 3))
    with pytest.raises(RlcError, match="of 2 rows side by side, here are 3"):
        three.load_state_dict(two.state_dict())
    with pytest.raises(RlcError, match="capacity must be >= the number of rows, 3, got 2"):
        wrapped(3, counts={"kind": "deir"}, features={**SMALL, "capacity": 2})
    env = wrapped(counts={"kind": "deir"})
    env.venv.reset()
    with pytest.raises(RlcError, match="reset"):
        env.step(np.array([0, 0]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["none", "counts"])
def test_ppo_finds_the_treasure_of_deep_sea_with_the_bonus_alone(kind: str) -> None:
    """N = 12, settings chosen on seed 0. Control: the same PPO without a bonus, which at N = 8 still finds it."""
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "sb3_bonus.py"))
    for seed in (1, 2):
        found, episodes = example["train"](12, 12_000, seed, kind=kind)
        assert episodes == 1000
        assert found == 0 if kind == "none" else found > 200


@pytest.mark.parametrize(("backend", "native"), [("auto", True), ("torch", False)])
def test_the_random_networks_heed_the_backend_of_the_features(backend: str, native: bool) -> None:
    env = scripted([EPISODES], EYE, {"kind": "rnd"}, features={**SMALL, "backend": backend})
    assert (env.bonus.arrivals.lifelong.rnd._native is not None) == native
