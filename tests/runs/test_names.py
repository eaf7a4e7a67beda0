"""Names and sweep files that are wrong: a sentence that names the mistake, and nothing outside the runs' folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from rl_contrastive.cli import main
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.run import RunConfig, run_folder
from rl_contrastive.runs.sweep import load_sweep

RUN = '[[run]]\nagent = "uniform"\nenv = "low-rank"\nepisodes = 64\n'


@pytest.mark.parametrize(
    ("label", "words"),
    [("x" * 400, "has 410 bytes, at most 255 are allowed"), ("é" * 130, "270 bytes"), ("a\0b", "printable"),
     ("a\nb", "printable"), ("\udcff", "printable")],
)  # fmt: skip
def test_impossible_labels_are_one_sentence(tmp_path, label, words, capsys):
    with pytest.raises(RlcError, match=words):
        run_folder(tmp_path, RunConfig("uniform", "low-rank", label=label))
    out = str(tmp_path / "out")
    assert main(["run", "uniform", "low-rank", "--label", label, "--out", out]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../../x", "/x", "a/../../b", ".."])
def test_a_group_stays_below_its_folder(tmp_path, name, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.toml").write_text(f"name = '{name}'\n" + RUN)
    assert main(["sweep", "s.toml"]) == 2
    assert main(["run", "uniform", "low-rank", "--group", name]) == 2
    assert capsys.readouterr().err.count("group must") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["s.toml"]
    RunConfig("uniform", "low-rank", group="a/b")  # control: a folder below is fine


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (RUN + '"env.num_states" = []\n', "env.num_states is an empty list, so there is no run"),
        (RUN + "seeds = [0, 0]\n", "seeds has 0 more than once"),
        (RUN + "seeds = []\n", "seeds is an empty list: give at least one seed"),
        ('imports = "x.py"\n' + RUN, 'imports must be a list of file names, such as ["my_agent.py"], got '),
        ("name = 5\n" + RUN, "name must be a text, got 5"),
        ("defaults = 5\n" + RUN, "defaults must be a table, got 5"),
        ("quick = [1]\n" + RUN, "quick must be a table"),
        ("run = [1]\n", "needs at least one [[run]] table"),
        ('no_compare = "yes"\n' + RUN, "no_compare must be true or false"),
        (RUN + '"env.horizon" = 3\n"env.horizon.x" = 3\n', "horizon.x is a field of horizon, which has a value"),
        (RUN + 'label = "a\\u0000b"\n', "label must hold printable characters only"),
        (RUN + f'env_label = "{"x" * 400}"\n', "give a shorter label or env_label"),
    ],
)
def test_mistakes_of_a_sweep_file_are_named(tmp_path, text, words):
    path = tmp_path / "s.toml"
    path.write_text(text)
    with pytest.raises(RlcError) as problem:
        load_sweep(path)
    assert words in str(problem.value)
    assert str(path) in str(problem.value)


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    path = tmp_path / "s.toml"
    path.write_text("\ufeff" + RUN, encoding="utf-8")
    assert len(load_sweep(path).runs) == 1


# Modules of one's own


def test_a_file_may_import_its_neighbours_and_runs_once_whoever_imports_it(tmp_path, monkeypatch):
    import sys

    from rl_contrastive import registry

    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "neighbour_of_mine.py").write_text("VALUE = 7\n")
    file = folder / "mine_agent.py"
    file.write_text(
        "from dataclasses import dataclass\nfrom neighbour_of_mine import VALUE\n"
        "from rl_contrastive.registry import register\n\n"
        "@dataclass(frozen=True)\nclass Config:\n    batch: int = VALUE\n"
        '\n@register("agent", "mine", Config)\ndef make(env, config, *, seed=0):\n    """Mine."""\n'
        f"\nwith open({str(tmp_path / 'count')!r}, 'a') as count:\n    count.write('x')\n"
    )
    registry.import_file(file)
    import mine_agent  # type: ignore[import-not-found]

    registry.import_file(file)
    assert registry.get("agent", "mine")[0].config is mine_agent.Config
    assert mine_agent.Config().batch == 7
    assert (tmp_path / "count").read_text() == "x"
    # A program that imported its module itself, before a run folder names the file.
    monkeypatch.setattr(registry, "_IMPORTED", {})
    registry.import_file(file)
    assert (tmp_path / "count").read_text() == "x"


def test_a_module_of_the_current_folder_is_found_from_elsewhere(tmp_path, monkeypatch):
    import sys

    from rl_contrastive.runs.run_config import with_local_folder

    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "my_game_module.py").write_text("")
    monkeypatch.chdir(tmp_path / "here")
    own, other = (RunConfig("uniform", f"pettingzoo:{name}:make") for name in ("my_game_module", "elsewhere"))
    assert with_local_folder(own).imports == (str(Path.cwd()),)
    assert with_local_folder(other).imports == ()
    assert with_local_folder(RunConfig("uniform", "pettingzoo:rps_v2")).imports == ()
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    assert main(["--version"]) == 0
    assert str(Path.cwd()) in sys.path


MODULE = """
import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

open(MARK, "a").write("x")


class Pennies(ParallelEnv):
    metadata = {"name": "pennies"}
    possible_agents = ["a", "b"]

    def observation_space(self, agent):
        return spaces.Discrete(1)

    def action_space(self, agent):
        return spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        return {agent: 0 for agent in self.agents}, {agent: {} for agent in self.agents}

    def step(self, actions):
        win = 1.0 if actions["a"] == actions["b"] else -1.0
        names, self.agents = self.agents, []
        seen, info = dict.fromkeys(names, 0), {name: {} for name in names}
        return seen, {"a": win, "b": -win}, dict.fromkeys(names, True), dict.fromkeys(names, False), info


def make():
    return Pennies()
"""


def test_a_game_of_ones_own_module_trains_here_and_plays_from_elsewhere(tmp_path):
    """Each command in a process of its own: what one has imported is not there for the next one."""
    import subprocess
    import sys

    here, away, mark = tmp_path / "here", tmp_path / "away", tmp_path / "mark"
    here.mkdir()
    away.mkdir()
    (here / "pennies_module.py").write_text(MODULE.replace("MARK", repr(str(mark))))

    def rlc(folder, *words):
        code = "import sys; from rl_contrastive.cli import main; sys.path.remove(''); sys.exit(main(sys.argv[1:]))"
        command = [sys.executable, "-c", code, *words]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)

    run = tmp_path / "runs" / "default" / "uniform--pettingzoo_pennies_module_make" / "seed-0"
    words = ["run", "independent-q", "pettingzoo:pennies_module:make", "--label", "uniform", "--no-tensorboard"]
    answer = rlc(here, *words, "--episodes", "64", "--eval-episodes", "5", "--out", str(tmp_path / "runs"))
    assert answer.returncode == 0, answer.stderr
    mark.unlink()
    for folder in (here, away):
        answer = rlc(folder, "matches", str(run), "--episodes", "5", "--out", str(tmp_path / "m"))
        assert answer.returncode == 2
        assert "names Python code to import" in answer.stderr
        assert not mark.exists()
        answer = rlc(folder, "matches", str(run), "--episodes", "5", "--out", str(tmp_path / "m"), "--trust-imports")
        assert answer.returncode == 0, answer.stderr
        assert mark.exists()
        mark.unlink()
