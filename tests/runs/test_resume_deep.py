"""kill -9 at any moment, then resume, of the deep agent whose replay lies in files: full rings, priorities, mapping."""

from __future__ import annotations

import pytest
from agents_common import same

from rl_contrastive.runs.checkpoint import load_state
from rl_contrastive.runs.loop import Budget
from rl_contrastive.runs.run import RunConfig, build, read_config


def replay_of(folder):
    """All that the replay of a run folder holds, and the keys of its entries."""
    agent, _, _ = build(read_config(folder))
    agent.persist_in(folder / "replay")
    agent.load_state_dict(load_state(folder / "checkpoint")["agent"])
    return agent.replay.state_dict(), (agent.bonus.inner.keys, agent.bonus.lost)


@pytest.mark.parametrize(
    ("storage", "objective"),
    [
        ("mapped", "nce"),
        pytest.param("memory", "nce", marks=pytest.mark.slow),
        # It remembers something of each slot of the replay.
        pytest.param("mapped", "meco-keyed", marks=pytest.mark.long),
    ],
)
def test_killed_and_resumed_it_has_the_same_bytes_and_the_same_replay(storage, objective, two_lives):
    config = RunConfig(
        agent="contrastive-ucb-deep",
        env="low-rank",
        # 4 entries an episode: the ring is overwritten from episode 25 on.
        agent_config={
            "warm_start": 6,
            "capacity": 100,
            "alpha": 0.5,
            "storage": storage,
            "train_every": 2,
            "episodic": True,
            "learner": {"representation": {"objective": objective}},
        },
        env_config={"num_states": 6, "num_actions": 3, "horizon": 3, "rank": 2},
        budget=Budget(episodes=40, eval_every=10, eval_episodes=20),
        checkpoint_seconds=0.0,
        tensorboard=False,
    )
    whole, killed = two_lives(config)
    for name in ("metrics.jsonl", "checkpoint/state.npz"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    (replay, keys), (other, others) = replay_of(whole), replay_of(killed)
    assert replay["total"] > 100  # or no entry was ever dropped
    assert same(replay, other)
    assert [array.tobytes() for array in keys] == [array.tobytes() for array in others]
    assert all(array.any() for array in keys)
    names = {path.name.split("-")[0] for path in (killed / "replay").iterdir()}
    assert names == {"segment", "priority", "keys", "lost", "past", "cursor"}


@pytest.mark.parametrize(
    "bonus",
    [
        {"kind": "ours-both", "unit": True, "rho": 0.5},
        *(
            pytest.param({"kind": kind}, marks=pytest.mark.long)
            for kind in ("ours-arrival", "noveld", "e3b", "etd", "counts")
        ),
    ],
    ids=lambda bonus: bonus["kind"],
)
def test_killed_and_resumed_every_bonus_has_the_same_bytes(bonus, two_lives):
    config = RunConfig(
        agent="contrastive-ucb-deep",
        env="low-rank",
        agent_config={
            "warm_start": 6,
            "capacity": 100,
            "train_every": 4,
            "bonus": bonus,
            # With one of them also what the second head may have, in files beside the replay.
            "explore": {"heads": "apart", "endless": True, "memory": True} if bonus["kind"] == "ours-both" else {},
        },
        env_config={"num_states": 6, "num_actions": 3, "horizon": 3, "rank": 2},
        budget=Budget(episodes=40, eval_every=10, eval_episodes=20),
        checkpoint_seconds=0.0,
        tensorboard=False,
    )
    whole, killed = two_lives(config)
    for name in ("metrics.jsonl", "checkpoint/state.npz"):
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    agents = []
    for folder in (whole, killed):
        agent, _, _ = build(read_config(folder))
        agent.persist_in(folder / "replay")
        agent.load_state_dict(load_state(folder / "checkpoint")["agent"])
        agents.append(agent)
    assert agents[0].replay.ring.total > 100
    assert same(agents[0].bonus.state_dict(), agents[1].bonus.state_dict())
