"""Rows whose episodes are over wait for the longest one: the networks do not see them, and nobody else notices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from agents_common import batches

from rl_contrastive.deep.agent_config import SearchConfig
from rl_contrastive.deep.choice import StageGame
from rl_contrastive.deep.search import Search
from rl_contrastive.runs.rollout import play

ROWS = 6
SMALL = {
    "batch_size": 8,
    "encoder": {"hidden": [16]},
    "feature_encoder": {"hidden": [16]},
    "representation": {"dim": 8, "hidden": 16},
    "device": "cpu",
}
EVERYTHING = slice(None)


@pytest.fixture(name="trained")
def trained_fixture(make_agent) -> Any:
    """An agent after a few batches; from then on it takes no gradient step and counts nothing again."""

    def trained(agent: str, env: str, seed: int = 0, **options: Any) -> Any:
        learner = {**SMALL, **options.pop("learner", {})}
        fields = {"batch": ROWS, "warm_start": 60, "capacity": 3000, "train_every": 7, "n_step": 1, **options}
        made = make_agent(agent, env, seed=seed, learner=learner, **fields)
        batches(made, 0, 4)
        assert made.rebuilt_at > 0
        made.learner.step = lambda *args, **rest: {}
        made._rebuild = lambda: None
        return made

    return trained


def episodes(agent: Any, act: Any = None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """One more batch: which rows were alive at each step, and what all rows did."""
    alive, actions = [], []
    agent.begin(ROWS)
    for step in play(agent.env, agent.seeds.env_seeds("env", 100, ROWS), act or agent.act):
        agent.observe(step)
        alive.append(step.alive)
        actions.append(step.action)
    return alive, actions


def count_rows(agent: Any) -> dict[str, list[int]]:
    """Rows of each call of the values, the features, and the choice of an action from here on."""
    rows: dict[str, list[int]] = {"values": [], "features": [], "choice": []}
    q, phi, draw = agent.learner.q, agent.learner.features.phi, agent.choice.draw
    agent.learner.q = lambda obs, **rest: rows["values"].append(len(obs)) or q(obs, **rest)
    agent.learner.features.phi = lambda obs: rows["features"].append(len(obs)) or phi(obs)
    agent.choice.draw = lambda values, uniform: rows["choice"].append(len(uniform)) or draw(values, uniform)
    return rows


CARTPOLE = [
    {},
    {"beta": 0.0},
    {"learner": {"backend": "torch"}},
    {"learner": {"value": {"noisy": 0.5}}},
    {"bonus": {"kind": "ours-both"}, "explore": {"heads": "apart", "memory": True}},
    {"search": {"alpha": 0.5, "k": 2}, "epsilon": 0.3},
    {"search": {"alpha": 0.5, "k": 2, "memory": 3}},
]
NAMES = ["tiles", "no bonus", "torch", "noisy", "memory", "search", "short search"]


@pytest.mark.parametrize(
    ("agent", "env", "options"),
    [
        *(("contrastive-ucb-deep", "gym:CartPole-v1", options) for options in CARTPOLE),
        ("contrastive-ucb-game-deep", "soccer", {}),
    ],
    ids=[*NAMES, "game"],
)
def test_rows_that_go_on_act_as_if_all_rows_were_computed(agent, env, options, trained) -> None:
    lean, full = trained(agent, env, **dict(options)), trained(agent, env, **dict(options))
    full._going = lambda h: EVERYTHING
    alive, actions = episodes(lean)
    done: list[np.ndarray] = []

    def follow(obs: np.ndarray, h: int) -> np.ndarray:
        done.append(full.act(obs, h))
        return actions[h]

    again, _ = episodes(full, follow)
    assert [rows.tolist() for rows in again] == [rows.tolist() for rows in alive]
    for rows, mine, its in zip(alive, actions, done, strict=True):
        np.testing.assert_array_equal(mine[rows], its[rows])
        assert ((mine >= 0) & (mine < lean.env_spec.num_actions)).all()
    assert lean.rng.random() == full.rng.random()  # as many numbers were drawn
    assert not alive[-1].all()  # or there was nothing to leave out


@pytest.mark.parametrize("everything", [False, True], ids=["rows that go on", "control"])
def test_the_networks_see_the_rows_that_go_on_and_no_others(everything, trained) -> None:
    """The control computes all rows at each step, as it was before."""
    plain, searching = (trained("contrastive-ucb-deep", "gym:CartPole-v1", search={"alpha": a}) for a in (0.0, 0.5))
    for agent in (plain, searching):
        if everything:
            agent._going = lambda h: EVERYTHING
        rows = count_rows(agent)
        alive, _ = episodes(agent)
        living = [int(step.sum()) for step in alive]
        assert sum(living) < ROWS * len(living)
        acting = [ROWS] * len(living) if everything else living
        assert rows["values"] == acting
        assert rows["choice"] == ([] if agent is searching else acting)
        # Features of the first observations, of each new one, and for the search of each that is acted at later.
        again = sum(acting[1:]) if agent is searching else 0
        assert sum(rows["features"]) == ROWS + sum(living) + again


def test_the_search_remembers_each_row_its_own_past_when_others_have_ended() -> None:
    """By hand: row 0 ends after a step; row 1 must leave what row 1 did, where row 0 did something else."""
    search, phi, values = Search(SearchConfig(alpha=0.9, k=2)), np.eye(3), np.array([0.3, 0.2, 0.0])
    two = search.choose(np.array([values, values[[1, 0, 2]]]), np.array([phi, phi]), 0, 1, np.zeros(2))
    assert two.tolist() == [0, 1]
    search.note(two)
    alone = np.array([1])
    one = search.choose(values[None, [1, 0, 2]], phi[None], 1, 1, np.zeros(1), rows=alone)
    assert one.tolist() == [0]  # 1 again if its past were lost or were that of row 0
    search.note(np.array([2, 0]))  # row 0 is over: its action counts nowhere
    assert search.choose(values[None, [1, 0, 2]], phi[None], 2, 1, np.zeros(1), rows=alone).tolist() == [1]


def test_a_game_of_a_batch_is_solved_as_it_is_alone() -> None:
    """The equilibria of some games do not depend on which others are solved beside them."""
    rng = np.random.default_rng(0)
    upper, lower = rng.normal(size=(2, 20, 12))
    rows, game = np.array([1, 4, 5, 13]), StageGame((3, 4))
    some = game.law([upper[rows], lower[rows]])
    np.testing.assert_allclose(game.law([upper, lower])[rows], some, atol=1e-12)
