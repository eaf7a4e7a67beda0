"""The registry: names to factories, prefixes, near misses, a user's file, and an import that stays light."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import pytest

from rl_contrastive import registry
from rl_contrastive.errors import RlcError
from rl_contrastive.registry import entries, get, import_file, register

BASELINES = {"ucbvi", "lsvi-ucb", "uniform", "epsilon-greedy", "sb3-ppo", "sb3-dqn", "sb3-qrdqn"}
FILE = '''
from dataclasses import dataclass
from rl_contrastive.registry import register

@dataclass(frozen=True)
class Config:
    batch: int = 1

@register("agent", "from-a-file", Config)
def make(env, config, *, seed=0):
    """An agent of a user."""
    return ("made", config.batch, seed)
'''


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    """What a test registers is forgotten after it."""
    entries("agent"), entries("env")  # discovery first, so that it is not forgotten too
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))


def test_discovery_finds_the_baselines_with_their_summaries():
    found = {entry.name: entry for entry in entries("agent")}
    assert found.keys() >= BASELINES
    assert all(found[name].summary for name in BASELINES)
    assert [e.name for e in entries("agent")] == sorted(found)


def test_a_prefix_fixes_the_id():
    entry, fixed = get("env", "gym:CartPole-v1")
    assert (entry.name, fixed) == ("gym:", {"id": "CartPole-v1"})
    with pytest.raises(RlcError, match="unknown env 'gim:CartPole-v1'"):
        get("env", "gim:CartPole-v1")


def test_a_near_miss_is_suggested():
    with pytest.raises(RlcError, match=r"unknown agent 'ucvbi'; did you mean 'ucbvi'\? Allowed: .*uniform"):
        get("agent", "ucvbi")
    with pytest.raises(RlcError, match=r"unknown env 'xyzzy'\. Allowed: "):
        get("env", "xyzzy")


def test_two_modules_cannot_take_one_name():
    @dataclass(frozen=True)
    class Config:
        batch: int = 1

    def mine(env, config, *, seed=0):
        """Mine."""

    with pytest.raises(RlcError, match=r"the agent name 'ucbvi' is already taken by rl_contrastive\.agents"):
        register("agent", "ucbvi", Config)(mine)
    register("agent", "mine", Config)(mine)
    assert get("agent", "mine")[0].factory is mine
    register("agent", "mine", Config)(mine)  # the same module again: a reload is no clash


def test_a_users_file(tmp_path):
    path = tmp_path / "my_agents.py"
    path.write_text(FILE)
    import_file(path)
    entry, _ = get("agent", "from-a-file")
    assert entry.factory(None, entry.config(batch=3), seed=4) == ("made", 3, 4)
    assert entry.summary == "An agent of a user."
    with pytest.raises(RlcError, match="there is no file"):
        import_file(tmp_path / "none.py")
    text = tmp_path / "notes.txt"
    text.write_text("")
    with pytest.raises(RlcError, match=r"notes\.txt is no Python file"):
        import_file(text)
    path.write_text("1 / 0")
    with pytest.raises(RlcError, match=r"my_agents\.py raised ZeroDivisionError"):
        import_file(path)


@pytest.mark.parametrize("kind", ["agent", "claim", "env", "objective", "opponent"])
def test_discovery_is_light(kind):
    """A run of a tabular agent must not pay for torch, SB3 or plots."""
    group = ", 'theory'" if kind == "claim" else ""  # claims of energies are of torch
    code = (
        f"import sys; from rl_contrastive.registry import entries; entries({kind!r}{group}); "
        "print([m for m in ('torch', 'stable_baselines3', 'matplotlib', 'plotly') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # Objectives are losses of torch tensors: they alone may import it.
    assert done.stdout.strip() in (["[]", "['torch']"] if kind == "objective" else ["[]"])


def test_a_users_file_runs_once(tmp_path):
    path, count = tmp_path / "once.py", tmp_path / "count"
    path.write_text(f"from pathlib import Path\nwith Path({str(count)!r}).open('a') as file: file.write('x')\n")
    import_file(path)
    import_file(path)
    assert count.read_text() == "x"


def test_a_users_file_cannot_take_a_name_of_the_library(tmp_path):
    path = tmp_path / "taker.py"
    path.write_text(FILE.replace("from-a-file", "ucbvi"))
    with pytest.raises(RlcError, match=r"the agent name 'ucbvi' is already taken by rl_contrastive\.agents"):
        import_file(path)


def test_configs_without_what_the_loop_needs_are_refused():
    @dataclass(frozen=True)
    class Bare:
        speed: int = 1

    with pytest.raises(RlcError, match="must be a dataclass"):
        register("agent", "dicts", dict)(lambda env, config, seed: None)
    with pytest.raises(RlcError, match="needs a field batch"):
        register("agent", "bare", Bare)(lambda env, config, seed: None)
    register("env", "bare", Bare)(lambda config, num_envs: None)  # only agents have batches


def test_a_gymnasium_id_without_its_prefix_and_a_prefix_without_its_id():
    with pytest.raises(RlcError, match="did you mean 'gym:CartPole-v1'"):
        get("env", "CartPole-v1")
    with pytest.raises(RlcError, match="'gym:' needs a name behind the colon"):
        get("env", "gym:")
