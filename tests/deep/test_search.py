"""Contrastive search in the deep agent's acting: the rule, what it remembers, that off is off, and that it resumes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from agents_common import batches, same

from rl_contrastive.deep.agent_config import SearchConfig
from rl_contrastive.deep.search import Search
from rl_contrastive.errors import RlcError

SMALL = {"batch_size": 8, "encoder": {"hidden": [16]}, "feature_encoder": {"hidden": [16]}, "device": "cpu"}


@pytest.fixture(name="sea")
def sea_fixture(make_agent) -> Any:
    def sea(**fields: Any) -> Any:
        learner = {**SMALL, "representation": {"dim": 8, "hidden": 16}, **fields.pop("learner", {})}
        common = {"env": {"size": 6}, "warm_start": 30, "capacity": 500, "batch": 2, "learner": learner}
        return make_agent("contrastive-ucb-deep", "deep-sea", **common, **fields)

    return sea


def test_it_leaves_what_the_episode_did_and_forgets_at_its_end() -> None:
    search, rng = Search(SearchConfig(alpha=0.9, k=2)), np.random.default_rng(0)
    values, phi = np.array([[0.3, 0.2, 0.0]]), np.eye(3)[None]

    def act(h: int, version: int = 1) -> int:
        action = search.choose(values, phi, h, version, rng.random(1))
        search.note(action)
        return int(action[0])

    assert [act(0), act(1)] == [0, 1]
    assert act(0) == 0  # a new episode
    assert act(1, version=2) == 0  # new features: the old ones do not compare
    short = Search(SearchConfig(alpha=0.9, k=2, memory=1))
    taken = []
    for h in range(4):
        action = short.choose(values, phi, h, 1, rng.random(1))
        short.note(action)
        taken.append(int(action[0]))
    assert taken == [0, 1, 0, 1]


def test_off_is_off_and_on_changes_what_is_done(sea) -> None:
    plain, off, on = sea(), sea(search={"alpha": 0.0}), sea(search={"alpha": 0.9})
    for agent in (plain, off, on):
        batches(agent, 0, 10)
    assert same(plain.state_dict(), off.state_dict())
    assert not same(plain.state_dict(), on.state_dict())


def test_it_resumes_to_the_bit(sea) -> None:
    fields = {"search": {"alpha": 0.9, "k": 2}}
    straight, first, resumed = sea(**fields), sea(**fields), sea(**fields)
    batches(straight, 0, 10)
    batches(first, 0, 6)
    resumed.load_state_dict(first.state_dict())
    batches(resumed, 6, 4)
    assert same(straight.state_dict(), resumed.state_dict())


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"search": {"alpha": 1.1}}, r"search: alpha must lie in \[0, 1\], got 1.1"),
        ({"search": {"k": 0}}, "search: k must be >= 1"),
        ({"search": {"alpha": 0.5}, "beta": 0.0}, "search compares learned features"),
        (
            {"search": {"alpha": 0.5}, "learner": {"representation": {"features": "psi"}}},
            "search compares learned features",
        ),
    ],
)
def test_what_it_cannot_do_is_a_sentence(sea, fields, words) -> None:
    with pytest.raises(RlcError, match=words):
        sea(**fields)
