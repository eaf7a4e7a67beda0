"""Promises P2 and P3: the same seed, the same bytes, whatever runs beside it; no global generator is touched."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rl_contrastive import registry
from rl_contrastive.cli import main
from rl_contrastive.config import from_dict
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.loop import train
from rl_contrastive.spec import OwnLoop

RLC = [sys.executable, "-m", "rl_contrastive.cli"]
SMALL = {
    "low-rank": {"num_states": 6, "num_actions": 3, "horizon": 3, "rank": 2},
    "combination-lock": {"horizon": 3, "num_actions": 3},
    "low-rank-game": {"num_states": 6, "num_actions": 2, "num_opponent_actions": 3, "horizon": 3, "rank": 2},
    "duel-lock": {"horizon": 3, "num_actions": 3},
}
RUN = ["run", "contrastive-frontier", "combination-lock", "--env.horizon", "3", "--episodes", "300"]
RUN += ["--eval-every", "50", "--eval-episodes", "20", "--no-tensorboard"]
FOLDER = Path("default") / "contrastive-frontier--combination-lock"


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("metrics.jsonl", "checkpoint/state.npz")}


def test_p2_two_processes_with_the_same_seed_write_the_same_bytes(tmp_path):
    for out in ("a", "b"):
        environment = {**os.environ, "PYTHONHASHSEED": "1" if out == "a" else "2"}
        words = [*RLC, *RUN, "--seed", "7", "--out", str(tmp_path / out)]
        subprocess.run(words, check=True, env=environment, stdout=subprocess.DEVNULL)
    a, b = (files(tmp_path / out / FOLDER / "seed-7") for out in ("a", "b"))
    assert a == b
    assert len(a["metrics.jsonl"].splitlines()) == 6


def test_p3_a_run_does_not_depend_on_other_runs_or_on_the_number_of_workers(tmp_path):
    assert main([*RUN, "--seed", "3", "--out", str(tmp_path / "alone")]) == 0
    assert main([*RUN, "--seed", "2", "--seeds", "3", "--workers", "1", "--out", str(tmp_path / "one")]) == 0
    assert main([*RUN, "--seed", "1", "--seeds", "3", "--workers", "3", "--out", str(tmp_path / "three")]) == 0
    alone, one, three = (files(tmp_path / out / FOLDER / "seed-3") for out in ("alone", "one", "three"))
    assert alone == one == three
    assert files(tmp_path / "one" / FOLDER / "seed-2") == files(tmp_path / "three" / FOLDER / "seed-2") != alone


def forbid_globals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every function of the global generators raises."""

    def forbidden(*args, **kwargs):
        raise AssertionError("a global random generator was used")

    legacy = [n for n in dir(np.random.mtrand._rand) if not n.startswith("_") and callable(getattr(np.random, n, None))]
    assert {"seed", "rand", "normal", "choice", "shuffle"} <= set(legacy)
    for name in legacy:
        monkeypatch.setattr(np.random, name, forbidden)
    for name in ("seed", "random", "randint", "choice", "shuffle", "sample", "uniform", "gauss", "getrandbits"):
        monkeypatch.setattr(random, name, forbidden)
    if "torch" in sys.modules:
        import torch

        for name in ("manual_seed", "seed", "set_rng_state"):
            monkeypatch.setattr(torch, name, forbidden)


def test_the_guard_itself_works(monkeypatch):
    forbid_globals(monkeypatch)
    for draw in (lambda: np.random.rand(), lambda: random.random(), lambda: np.random.seed(0)):  # noqa: NPY002
        with pytest.raises(AssertionError, match="global random generator"):
            draw()
    np.random.default_rng(0).random()  # a generator of one's own is fine


@pytest.mark.parametrize("name", [entry.name for entry in registry.entries("agent")])
def test_p3_no_agent_and_no_loop_touches_a_global_generator(name, monkeypatch):
    entry, _ = registry.get("agent", name)
    config = entry.config()
    tried = 0
    for env_name, fields in SMALL.items():
        env_entry, _ = registry.get("env", env_name)
        env = env_entry.factory(from_dict(env_entry.config, fields), config.batch)
        try:
            agent = entry.factory(env, config, seed=1)
        except RlcError:
            continue
        if isinstance(agent, OwnLoop):
            pytest.skip("SB3 seeds the globals itself; the agent keeps them apart (tests/agents)")
        tried += 1
        before = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
        torch_before = sys.modules["torch"].get_rng_state().clone() if "torch" in sys.modules else None
        with monkeypatch.context() as patch:
            forbid_globals(patch)
            train(agent, env, episodes=2 * config.batch, eval_every=config.batch, eval_episodes=10)
        assert before[0] == random.getstate()
        np.testing.assert_array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002
        if torch_before is not None:
            assert torch_before.equal(sys.modules["torch"].get_rng_state())
    assert tried
