"""The seed tree: streams that depend on (seed, name) only, and generators that go on where they were saved."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from rl_contrastive.errors import RlcError
from rl_contrastive.seeding import STREAMS, SeedTree, generator_state, restore_generator


def test_streams_are_repeatable_and_all_different():
    draws = {name: SeedTree(3).generator(name).random(4).tolist() for name in STREAMS}
    assert draws == {name: SeedTree(3).generator(name).random(4).tolist() for name in reversed(STREAMS)}
    assert len({tuple(values) for values in draws.values()}) == len(STREAMS)
    assert draws["act"] != SeedTree(4).generator("act").random(4).tolist()
    assert draws["act"] != SeedTree(3).generator("act", 0).random(4).tolist()


def test_numbers_are_the_same_in_another_process():
    """Python's own `hash` of a string differs between processes; the tree must not use it."""
    code = "from rl_contrastive.seeding import SeedTree; print(repr(SeedTree(3).generator('act').random()))"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": salt}
        ).stdout.strip()
        for salt in ("1", "2")
    }
    assert runs == {repr(SeedTree(3).generator("act").random())}


def test_an_integer_of_a_stream_has_63_bits_and_is_the_streams_own():
    tree = SeedTree(3)
    found = [tree.integer("init"), tree.integer("init", 1), tree.integer("act"), SeedTree(4).integer("init")]
    assert all(0 <= number < 2**63 for number in found)
    assert max(found) >= 2**53
    assert len(set(found)) == 4
    assert tree.integer("init") == found[0]


def test_environment_seeds_are_what_gymnasium_accepts_and_differ_between_batches():
    tree = SeedTree(0)
    first, second = tree.env_seeds("env", 0, 500), tree.env_seeds("env", 1, 500)
    assert all(0 <= seed < 2**31 for seed in first)
    assert len(set(first) | set(second)) == 1000
    assert first[:10] == tree.env_seeds("env", 0, 10)  # a larger batch begins with the same rows
    assert not set(first) & set(tree.env_seeds("evaluation", 0, 500))


@pytest.mark.parametrize("seed", [-1, 1.5, True, "3", None])
def test_bad_seeds(seed):
    with pytest.raises(RlcError, match="seed must be a non-negative integer"):
        SeedTree(seed)


def test_unknown_stream_names_the_known_ones():
    with pytest.raises(RlcError, match=r"unknown random stream 'acts'\. Allowed: env, init, act"):
        SeedTree(0).generator("acts")


def test_a_generator_goes_on_after_json():
    rng = SeedTree(1).generator("act")
    rng.random(7)
    rng.integers(5, size=3, dtype=np.int32)  # leaves half a word buffered
    saved = json.loads(json.dumps(generator_state(rng)))
    expected = rng.random(5).tolist()
    other = SeedTree(2).generator("fit")
    restore_generator(other, saved)
    assert other.random(5).tolist() == expected


@pytest.mark.parametrize("state", [{}, {"bit_generator": "MT19937"}, {"bit_generator": "PCG64", "state": 3}])
def test_a_foreign_state_is_refused(state):
    with pytest.raises(RlcError, match="no valid generator state"):
        restore_generator(SeedTree(0).generator("act"), state)
