"""Memory that is free in the heap goes back to the system."""

import ctypes
import sys

import pytest

from rl_contrastive import make_agent, make_env
from rl_contrastive.device import trim_heap
from rl_contrastive.runs.rollout import play

BLOCK, BLOCKS = 64 * 1024, 1500


def resident_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_free_blocks_between_used_ones_are_given_back():
    """Every other block is freed: the heap cannot shrink from its end, and keeps what is free until trimmed."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    blocks = [libc.malloc(BLOCK) for _ in range(BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK)
    for block in blocks[::2]:
        libc.free(block)
    before = resident_mb()
    assert trim_heap()
    after = resident_mb()
    for block in blocks[1::2]:
        libc.free(block)
    assert before - after > 0.5 * BLOCKS / 2 * BLOCK / 2**20


def test_nothing_happens_elsewhere(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not trim_heap()


@pytest.mark.long
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_the_deep_agent_keeps_its_memory_once_its_replay_is_full():
    """2000 steps fill the replay and the places beside it; 4000 more take no memory."""
    env = make_env("gym:CartPole-v1", 1)
    small = {"hidden": [32]}
    learner = {"device": "cpu", "batch_size": 16, "encoder": small, "feature_encoder": small}
    options = {"capacity": 1000, "warm_start": 200, "train_every": 2, "bonus": {"past": 500}, "learner": learner}
    agent = make_agent("contrastive-ucb-deep", env, **options)
    episode = 0

    def advance(steps):
        nonlocal episode
        while agent.steps < steps:
            agent.begin(1)
            for step in play(env, agent.seeds.env_seeds("env", episode, 1), agent.act):
                agent.observe(step)
            agent.update()
            episode += 1
        trim_heap()
        return resident_mb()

    before = advance(2000)
    assert agent.past.visits > 500
    assert advance(6000) - before < 4.0
