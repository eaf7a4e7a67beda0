"""dcl, dclw, hard, reweighted, isogclr run in the agents that take them; others refuse them in a sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from agents_common import batches, same

from rl_contrastive.errors import RlcError

ALLOWED: list[tuple[str, dict[str, Any]]] = [
    ("dcl", {}),
    ("reweighted", {}),
    ("reweighted", {"weight": "cl", "direction": "cl"}),
    ("hard", {"alpha": 1.0}),
]
BIASED: list[tuple[str, str]] = [
    ("dclw", "no ratio"),
    ("hard", "no ratio"),
    ("isogclr", "only a tempered ratio"),
]
WORLDS: list[tuple[str, str, dict[str, Any], dict[str, Any]]] = [
    ("contrastive-ucb", "low-rank", {"num_states": 6, "num_actions": 2, "horizon": 2, "rank": 2}, {}),
    ("contrastive-ucb", "combination-lock", {"horizon": 2}, {"representation": "vector"}),
    (
        "contrastive-ucb-game",
        "low-rank-game",
        {"num_states": 5, "num_actions": 2, "num_opponent_actions": 2, "horizon": 2, "rank": 2},
        {},
    ),
]
IDS = ["table", "vector", "game"]


def learner(name: str, options: dict[str, Any], **fields: Any) -> dict[str, Any]:
    small = {"method": "nce", "steps": 3, "batch_size": 16, "negatives": 8, "dim": 2}
    return {"learner": {**small, "objective": name, "objective_options": options, **fields}}


@pytest.mark.parametrize(("agent", "env", "env_options", "fields"), WORLDS, ids=IDS)
@pytest.mark.parametrize(("name", "options"), [*ALLOWED, *((name, {}) for name, _ in BIASED)])
def test_it_plans_and_resumes_to_the_bit(make_agent, agent, env, env_options, fields, name, options) -> None:
    biased = not options and name in dict(BIASED)
    common = {"batch": 10, "warm_start": 10, "growth": 0.0, **fields, **learner(name, options, allow_biased=biased)}

    def fresh() -> Any:
        return make_agent(agent, env, seed=1, env=env_options, **common)

    straight, first, resumed = fresh(), fresh(), fresh()
    batches(straight, 0, 4)
    batches(first, 0, 2)
    resumed.load_state_dict(first.state_dict())
    batches(resumed, 2, 2)
    assert straight.version >= 3
    assert same(straight.state_dict(), resumed.state_dict())
    obs, _ = straight.env.reset(seed=straight.seeds.env_seeds("env", 9, 10))
    policy = straight.policy(obs, 0)
    assert np.isfinite(policy).all()


@pytest.mark.parametrize(("agent", "env", "env_options", "fields"), WORLDS, ids=IDS)
@pytest.mark.parametrize(("name", "words"), BIASED)
def test_a_biased_one_is_refused_unless_it_is_allowed(make_agent, agent, env, env_options, fields, name, words) -> None:
    with pytest.raises(RlcError, match=f"{name} with these options recovers {words} .*allow_biased"):
        make_agent(agent, env, env=env_options, **fields, **learner(name, {}))


def test_with_sampled_tables_too(make_agent) -> None:
    """Batches list their anchors: the keyed state is found by entry of the table."""
    name, env, env_options, _ = WORLDS[0]
    fields = learner("isogclr", {}, allow_biased=True, exact_entries=0)
    agent = make_agent(name, env, env=env_options, batch=10, warm_start=10, **fields)
    batches(agent, 0, 3)
    assert agent.version >= 1


@pytest.mark.parametrize("name", ["dcl", "dclw", "hard", "reweighted"])
def test_networks_learn_from_it(make_agent, name) -> None:
    """They make no P-hat, so biased ones are taken as well."""
    representation = {"dim": 8, "hidden": 0, "objective": name, "every": 1}
    agent = make_agent(
        "contrastive-ucb-deep",
        "deep-sea",
        env={"size": 4},
        warm_start=20,
        capacity=200,
        batch=2,
        learner={"batch_size": 8, "representation": representation, "encoder": {"hidden": [16]}, "device": "cpu"},
    )
    batches(agent, 0, 8)
    assert np.isfinite(agent.update()["loss_contrast"])
