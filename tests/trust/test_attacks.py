"""Random attacks on run folders: kills at any moment, damage to any file, signals to a sweep.

Each ends in the same bytes, or in one sentence and a folder that is as it was. A few attacks here; RLC_ATTACKS=300
makes that many of each kind, RLC_ATTACK_SEED=n repeats those of a printed seed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rl_contrastive import registry
from rl_contrastive.analysis.runs import read_run
from rl_contrastive.config import from_dict, to_dict
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.checkpoint import load_state
from rl_contrastive.runs.load import load_agent
from rl_contrastive.runs.loop import Budget
from rl_contrastive.runs.run import RunConfig, config_json, resume, run, run_folder
from rl_contrastive.spec import OwnLoop

ATTACKS = int(os.environ.get("RLC_ATTACKS", "12"))
SEED = int(os.environ.get("RLC_ATTACK_SEED", random.SystemRandom().randrange(10**6)))
LIVES = Path(__file__).parent.parent / "runs" / "lives.py"
ENVS = {
    "low-rank": {"num_states": 6, "num_actions": 3, "horizon": 3, "rank": 2},
    "combination-lock": {"horizon": 3, "num_actions": 3},
    "low-rank-game": {"num_states": 6, "num_actions": 2, "num_opponent_actions": 3, "horizon": 3, "rank": 2},
}
BYTES = ("metrics.jsonl", "checkpoint/state.npz")


def quick(agent: str) -> RunConfig | None:
    """A short run on the first small environment that the agent accepts; None for agents with a loop of their own."""
    entry, _ = registry.get("agent", agent)
    config = entry.config()
    if agent in ("contrastive-ucb-deep", "contrastive-ucb-game-deep", "independent-dqn"):
        config = replace(config, warm_start=6, learner=replace(config.learner, batch_size=4))
    elif agent == "rnd-dqn":
        config = replace(config, warm_start=6, rnd=replace(config.rnd, batch_size=4))
    elif hasattr(config, "learner"):
        config = replace(config, learner=replace(config.learner, steps=20))
    for env, fields in ENVS.items():
        env_entry, _ = registry.get("env", env)
        try:
            made = entry.factory(env_entry.factory(from_dict(env_entry.config, fields), config.batch), config, seed=0)
        except RlcError:
            continue
        if isinstance(made, OwnLoop):
            return None
        budget = Budget(episodes=8 * config.batch, eval_every=2 * config.batch, eval_episodes=5)
        return RunConfig(agent, env, to_dict(config), fields, budget=budget, checkpoint_seconds=0.0, tensorboard=False)
    return None


def same_bytes(a: Path, b: Path) -> bool:
    return all((a / name).read_bytes() == (b / name).read_bytes() for name in BYTES)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# Kills


def test_kills_at_random_moments_lose_nothing(tmp_path):
    print(f"RLC_ATTACK_SEED={SEED}")
    rng = random.Random(SEED)
    # Other tests register agents of their own in this process; the lives of a run do not know them.
    ours = [entry for entry in registry.entries("agent") if entry.factory.__module__.startswith("rl_contrastive.")]
    configs = [config for entry in ours if (config := quick(entry.name)) is not None]
    most = 15  # kills of one run: a life that is killed before its first batch gets nowhere
    chosen = configs * (1 + ATTACKS // (most * len(configs))) if ATTACKS >= 100 else rng.sample(configs, 2)
    kills, total = max(2, min(most, -(-ATTACKS // len(chosen)))), 0
    for number, config in enumerate(chosen):
        config = replace(config, seed=rng.randrange(1000))
        out = tmp_path / str(number)
        out.mkdir()
        (out / "config.json").write_text(json.dumps(config_json(config, "")))
        words = [sys.executable, str(LIVES), str(out / "config.json"), str(out), str(kills)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": str(rng.randrange(1000))}
        answer = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=280, check=False)
        assert answer.returncode == 0, (config, answer.stderr)
        total += json.loads(answer.stdout.splitlines()[-1])["killed"]
        assert same_bytes(run_folder(out / "whole", config), run_folder(out / "killed", config)), config
    print(f"{total} kills of {len(chosen)} runs")


# Damage


def flip(path: Path, rng: random.Random, other: Path) -> None:
    data = bytearray(path.read_bytes())
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(bytes(data))


def truncate(path: Path, rng: random.Random, other: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: rng.randrange(len(data) + 1)])


def zero(path: Path, rng: random.Random, other: Path) -> None:
    data = bytearray(path.read_bytes())
    start = rng.randrange(len(data) + 1)
    data[start : start + 64] = bytes(len(data[start : start + 64]))
    path.write_bytes(bytes(data))


def delete(path: Path, rng: random.Random, other: Path) -> None:
    path.unlink()


def swap(path: Path, rng: random.Random, other: Path) -> None:
    """With another file of its folder, or the file of this name of another run."""
    theirs = [p for p in other.rglob(path.name) if p.parent.name in (path.parent.name, other.name)]
    files = [p for p in path.parent.iterdir() if p.is_file() and p != path]
    files += theirs
    if files:
        chosen = rng.choice(sorted(files))
        mine, data = path.read_bytes(), chosen.read_bytes()
        path.write_bytes(data)
        if chosen.parent == path.parent:
            chosen.write_bytes(mine)


DAMAGE = (flip, flip, truncate, zero, delete, swap)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[tuple[RunConfig, Path, Path]]:
    """(config, its run stopped midway, its whole run): a table, a game, and networks with a replay folder."""
    out = []
    for agent in ("ucbvi", "nash-vi", "contrastive-ucb-deep", "rnd-dqn"):
        config = replace(quick(agent), seed=5, tensorboard=agent == "ucbvi")
        root = tmp_path_factory.mktemp(agent)
        stop = iter([False] * 4)
        run(config, root / "part", should_stop=lambda stop=stop: next(stop, True))
        assert run(config, root / "whole")["status"] == "finished"
        out.append((config, run_folder(root / "part", config), run_folder(root / "whole", config)))
    return out


def attacked(folder: Path, copy: Path, rng: random.Random, other: Path) -> str:
    """A copy of the folder with one file damaged; what was done."""
    shutil.copytree(folder, copy)
    path = rng.choice(sorted(p for p in copy.rglob("*") if p.is_file()))
    how = rng.choice(DAMAGE)
    how(path, rng, other)
    return f"{how.__name__} {path.relative_to(copy)}"


def test_damage_to_any_file_ends_in_the_same_bytes_or_in_a_sentence(tmp_path, runs, capsys):
    rng, endings = random.Random(SEED), {"same bytes": 0, "earlier checkpoint": 0, "refused": 0}
    for number in range(ATTACKS):
        config, part, whole = rng.choice(runs)
        copy = tmp_path / str(number)
        what = f"RLC_ATTACK_SEED={SEED}, attack {number}: {config.agent}, {attacked(part, copy, rng, whole)}"
        before = contents(copy)
        capsys.readouterr()
        try:
            summary, refusal = resume(copy), None
        except RlcError as error:
            summary, refusal = {}, str(error)
        if refusal is not None:
            endings["refused"] += 1
            assert "\n" not in refusal, what
            assert {**contents(copy), "lock": b""} == {**before, "lock": b""}, what
        else:
            said = "last good checkpoint" in capsys.readouterr().err
            endings["earlier checkpoint" if said else "same bytes"] += 1
            assert summary["status"] == "finished", (what, summary)
            assert same_bytes(copy, whole), what
        shutil.rmtree(copy)
    print(f"seed {SEED}, {ATTACKS} attacks: {endings}")


def test_a_damaged_finished_run_is_compared_as_it_was_or_counts_as_failed(tmp_path, runs):
    """No bit of config.json, metrics.jsonl or summary.json turns into another figure of a table."""
    rng, failed = random.Random(SEED + 2), 0
    for number in range(5 * ATTACKS):
        config, part, whole = rng.choice(runs)
        copy = tmp_path / whole.parent.name / whole.name
        shutil.copytree(whole, copy)
        name, how = rng.choice(("config.json", "metrics.jsonl", "summary.json")), rng.choice(DAMAGE)
        how(copy / name, rng, part)
        what = f"RLC_ATTACK_SEED={SEED}, attack {number}: {config.agent}, {how.__name__} {name}"
        true, found = read_run(whole), read_run(copy)
        if found.status == "finished":
            for field in ("agent", "env", "seed", "solved_at", "cap"):
                assert getattr(found, field) == getattr(true, field), what
            values = {key: value for key, value in found.summary.items() if key in true.summary and key != "sha256"}
            assert values == {key: true.summary[key] for key in values}, what
            np.testing.assert_equal(found.series, true.series, err_msg=what)
        else:
            failed += 1
            assert found.error, what
            assert "\n" not in found.error, what
        shutil.rmtree(copy)
    assert failed > 0


def test_a_damaged_finished_run_plays_as_it_was_or_is_refused(tmp_path, runs):
    rng, refused = random.Random(SEED + 1), 0
    for number in range(ATTACKS):
        config, part, whole = rng.choice(runs[:2])
        copy = tmp_path / str(number)
        what = f"RLC_ATTACK_SEED={SEED}, attack {number}: {config.agent}, {attacked(whole, copy, rng, part)}"
        try:
            agent, refusal = load_agent(copy)[0], ""
        except RlcError as error:
            agent, refusal = None, str(error)
        refused += agent is None
        assert "\n" not in refusal, what
        if agent is not None:
            assert agent.version == load_state(whole / "checkpoint")["agent"]["version"], what
        shutil.rmtree(copy)
    print(f"seed {SEED}: {refused} of {ATTACKS} refused")


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.long)])
def test_a_sweep_that_is_stopped_goes_on_to_the_same_bytes(tmp_path, number):
    text = '[defaults]\nseeds = [0, 1]\ntensorboard = false\ncheckpoint_seconds = 0\n[[run]]\nagent = "ucbvi"\n'
    text += 'env = "low-rank"\nepisodes = 3000\neval_every = 100\neval_episodes = 5\n"env.num_states" = 6\n'
    (tmp_path / "s.toml").write_text("no_compare = true\n" + text)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def words(out: str) -> list[str]:
        sweep = [sys.executable, "-m", "rl_contrastive.cli", "sweep", str(tmp_path / "s.toml")]
        return [*sweep, "--out", str(tmp_path / out), "--workers", "2" if out == "a" else "1"]

    process = subprocess.Popen(words("a"), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    give_up = time.monotonic() + 60
    while not list((tmp_path / "a").rglob("state.npz")) and time.monotonic() < give_up:
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(timeout=60) != 0
    assert subprocess.run(words("a"), env=environment, check=False, stdout=subprocess.DEVNULL).returncode == 0
    assert subprocess.run(words("b"), env=environment, check=False, stdout=subprocess.DEVNULL).returncode == 0
    folders = sorted(path.parent.relative_to(tmp_path / "b") for path in (tmp_path / "b").rglob("metrics.jsonl"))
    assert len(folders) == 2
    assert all(same_bytes(tmp_path / "a" / folder, tmp_path / "b" / folder) for folder in folders)
