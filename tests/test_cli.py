"""`rlc`: what a user types, sees and gets as an exit code."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rl_contrastive import registry
from rl_contrastive.cli import COMMANDS, main
from rl_contrastive.cli.run import RunFlags
from rl_contrastive.cli.short_help import FIRST
from rl_contrastive.config import field_docs
from rl_contrastive.runs.run import read_summary

HERE = Path(__file__).parent
TINY, BROKEN = str(HERE / "tiny_agent.py"), str(HERE / "broken_env.py")
RLC = [sys.executable, "-m", "rl_contrastive.cli"]
SMALL = ["--env.num-states", "6", "--env.num-actions", "3", "--env.horizon", "3", "--env.rank", "2"]
QUICK = ["--episodes", "16", "--eval-every", "8", "--eval-episodes", "5", "--no-tensorboard"]
MECO = ["run", "contrastive-ucb", "low-rank", "--agent.learner.method", "nce", "--agent.learner.objective", "meco"]
OPTIONS = "--agent.learner.objective-options"
TINY_RUN = ["run", "tiny", "low-rank", "--import", TINY, *SMALL, *QUICK]
ENDLESS = [*TINY_RUN[:5], *SMALL, "--episodes", "1000000", "--eval-every", "1000", *QUICK[4:]]


def complaint(capsys, words: list[str]) -> str:
    """The one sentence on stderr of a command that must exit with 2 and print nothing else."""
    capsys.readouterr()
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("rlc: ")
    assert shown.err.count("\n") == 1
    return shown.err


def started(folder: Path) -> bool:
    """The worker has written a line of metrics."""
    metrics = folder / "metrics.jsonl"
    return metrics.exists() and metrics.stat().st_size > 0


def test_an_option_by_its_old_name_works_and_says_so(tmp_path, capsys):
    assert main([*TINY_RUN, "--out", str(tmp_path), "--experiment", "e"]) == 0
    assert (tmp_path / "e" / "tiny--low-rank" / "seed-0" / "summary.json").is_file()
    assert capsys.readouterr().err.splitlines()[0] == "rlc: --experiment is called --group now."


def test_run_writes_one_folder_a_seed_and_says_how_they_ended(tmp_path, capsys):
    words = [*TINY_RUN, "--seed", "4", "--seeds", "2", "--out", str(tmp_path), "--group", "e", "--label", "mine"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    folders = [tmp_path / "e" / "mine--low-rank" / f"seed-{n}" for n in (4, 5)]
    assert [line.split(": ")[0] for line in lines] == [str(f) for f in folders]
    assert all("finished, 16 episodes" in line for line in lines)
    assert [read_summary(f)["seed"] for f in folders] == [4, 5]
    assert (folders[0] / "metrics.jsonl").read_bytes() != (folders[1] / "metrics.jsonl").read_bytes()
    config = json.loads((folders[0] / "config.json").read_text())
    assert config["env_config"]["num_states"] == 6
    assert config["meta"]["command"].startswith("rlc run tiny low-rank")
    assert "--overwrite" in complaint(capsys, words)
    assert main([*words, "--overwrite", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["folder"] for row in rows] == [str(f) for f in folders]
    assert main(["resume", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == rows


def files_below(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_refused_command_with_overwrite_leaves_the_finished_runs(tmp_path, capsys):
    """`--episodes 2` holds no whole batch of four: only the worker, which builds the agent, can tell."""
    words = ["run", "tiny", "low-rank", "--import", TINY, *SMALL, *QUICK[2:], "--seeds", "2", "--out", str(tmp_path)]
    assert main([*words, "--episodes", "16"]) == 0
    before = files_below(tmp_path)
    assert len(before) == 2 * 6
    assert "no batch would fit" in complaint(capsys, [*words, "--overwrite", "--episodes", "2"])
    assert files_below(tmp_path) == before
    assert main([*words, "--overwrite", "--episodes", "24"]) == 0  # control: what can run does replace them
    after = files_below(tmp_path)
    assert after.keys() == before.keys()
    assert {path.name for path in after if after[path] == before[path]} == {"lock"}


def test_a_refused_command_leaves_no_new_folder(tmp_path, capsys):
    for out in (tmp_path / "new", tmp_path):
        words = ["run", "tiny", "low-rank", "--import", TINY, *SMALL, "--episodes", "2", "--out", str(out)]
        assert "no batch would fit" in complaint(capsys, words)
        assert list(tmp_path.iterdir()) == []


def test_any_gymnasium_id_runs_through_the_prefix(tmp_path, capsys):
    words = ["run", "uniform", "gym:CartPole-v1", "--env.horizon", "20", "--steps", "500", "--eval-episodes", "5"]
    assert main([*words, "--out", str(tmp_path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["env"] == "gym:CartPole-v1"
    assert row["env_steps"] >= 500
    assert row["final_return"] > 5
    assert Path(row["folder"]) == tmp_path / "default" / "uniform--gym_CartPole-v1" / "seed-0"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["rum"], "unknown command 'rum'; did you mean 'run'?"),
        (["run"], "needs two names first"),
        (["run", "tiny"], "needs two names first"),
        (["run", "unifrm", "low-rank"], "unknown agent 'unifrm'; did you mean 'uniform'?"),
        (["run", "uniform", "low-rnk"], "unknown env 'low-rnk'; did you mean 'low-rank'?"),
        (
            ["run", "uniform", "low-rank", "--env.horzon", "3"],
            "unknown option --env.horzon; did you mean --env.horizon?",
        ),
        (["run", "uniform", "low-rank", "--agent.bach=3"], "unknown option --agent.bach; did you mean --agent.batch?"),
        (["run", "uniform", "low-rank", "--episode", "3"], "did you mean --episodes?"),
        (["run", "uniform", "low-rank", "--zzzzzzzzzzzz"], "unknown option --zzzzzzzzzzzz; rlc run uniform low-rank"),
        (["run", "uniform", "low-rank", "3"], "3"),
        (["run", "uniform", "low-rank", "--env.horizon", "0"], "low-rank: horizon must be >= 1, got 0."),
        (["run", "uniform", "low-rank", "--env.horizon", "x"], "--env.horizon takes a whole number, got 'x'."),
        (["run", "uniform", "low-rank", "--env.horizon", "2.5"], "--env.horizon takes a whole number, got '2.5'."),
        (["run", "uniform", "low-rank", "--episodes", "ten"], "--episodes takes None or a whole number, got 'ten'."),
        (["run", "ucbvi", "low-rank", "--agent.c", "1,5"], "--agent.c takes a number, got '1,5'."),
        (["run", "uniform", "low-rank", "--env.reward", "tabel"], "--env.reward"),
        (["run", "uniform", "low-rank", "--env.horizon"], "--env.horizon"),
        (["run", "uniform", "low-rank", "--agent.batch", "0"], "batch must be >= 1, got 0"),
        (["run", "uniform", "low-rank", "--seed", "-1"], "seed must be >= 0, got -1."),
        (["run", "uniform", "low-rank", "--seeds", "0"], "--seeds must be >= 1, got 0."),
        (["run", "uniform", "low-rank", "--workers", "0"], "--workers must be >= 1, got 0."),
        (["run", "uniform", "low-rank", "--threads", "0"], "threads must be >= 1, got 0."),
        (["run", "uniform", "low-rank", "--episodes", "-5"], "episodes must be >= 1, got -5."),
        (["run", "uniform", "low-rank", "--episodes", "5", "--steps", "5"], "not both"),
        (["run", "uniform", "low-rank", "--episodes", "3", "--agent.batch", "4"], "no batch would fit"),
        (["run", "uniform", "low-rank", "--exact", "maybe"], "--exact takes one of auto, always, never, got maybe."),
        (
            ["run", "contrastive-ucb-deep", "deep-sea", "--agent.bonus.gate", "foo"],
            "gate takes one of cells, e3b, ellipse, first, nearest, none, temporal, tried, got foo.",
        ),
        (["run", "uniform", "low-rank", "--device", "cuda"], "no field 'device'"),
        ([*MECO[:3], *MECO[5:]], "objective has no effect with --agent.learner.method spectral; add --agent"),
        ([*MECO[:3], f"{OPTIONS}.x=1"], "unknown option"),
        ([*MECO[:-1], "nt-xent"], "'nt-xent' is a loss of embeddings"),
        ([*MECO[:-1], "mecco"], "unknown objective 'mecco'; did you mean 'meco'?"),
        ([*MECO, f"{OPTIONS}.gama", ".3"], f"unknown option {OPTIONS}.gama; did you mean {OPTIONS}.gamma?"),
        ([*MECO, f"{OPTIONS}.gamma", "x"], f"{OPTIONS}.gamma takes a number, got 'x'."),
        ([*MECO, f"{OPTIONS}.gamma", "3"], "rlc: meco: gamma must lie in (0, 1], got 3.0."),
        ([*MECO, OPTIONS, "gamma"], f"{OPTIONS} takes names with values; write {OPTIONS}.NAME VALUE for each."),
        ([*MECO[:3], f"{OPTIONS}.gamma", ".3"], f"unknown option {OPTIONS}.gamma"),  # nce has no options
        ([*MECO[:-1], "infonce", f"{OPTIONS}.temperature", "2"], "infonce with these options recovers only a tempered"),
        (["run", "uniform", "low-rank", "--import", "/no/file.py"], "there is no file /no/file.py."),
        (["run", "uniform", "gym:Nothing-v9"], "gym:Nothing-v9 cannot be made"),
        (["run", "ucbvi", "combination-lock"], "ucbvi"),
        (["resume", "/no/folder"], "there is no folder /no/folder."),
        (["resume"], "needs DIR"),
        (["list", "agent"], "unknown kind 'agent'; did you mean 'agents'?"),
        (["sweep", "/no/file.toml"], "cannot read /no/file.toml"),
        (["compare", "/no/folder"], "no folder /no/folder"),
        (["theory", "nothing-like-it"], "nothing-like-it"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_and_exit_code_2(words, sentence, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert sentence in complaint(capsys, words)
    assert not any(tmp_path.rglob("config.json"))  # nothing stays behind


def test_a_file_that_raises_while_it_is_imported(tmp_path, capsys):
    (tmp_path / "bad.py").write_text("raise KeyError('x')")
    assert "raised KeyError" in complaint(capsys, ["run", "a", "b", "--import", str(tmp_path / "bad.py")])


def test_a_failed_seed_is_exit_code_1_and_the_others_go_on(tmp_path, capsys):
    words = ["run", "tiny", "broken", f"--import={TINY}", "--import", BROKEN, *QUICK, "--out", str(tmp_path)]
    assert main([*words, "--env.at", "3", "--seeds", "2"]) == 1
    shown = capsys.readouterr()
    assert shown.out.count("failed, 8 episodes") == 2
    assert shown.err.count("the run raised ZeroDivisionError") == 2
    assert "Traceback" not in shown.err
    assert main([*words, "--env.how", "no", "--label", "fine"]) == 0


def test_ctrl_c_stops_after_the_batch_with_a_checkpoint_and_the_run_can_go_on(tmp_path):
    words = [*ENDLESS, "--out", str(tmp_path)]
    process = subprocess.Popen([*RLC, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    folder = tmp_path / "default" / "tiny--low-rank" / "seed-0"
    give_up = time.monotonic() + 120
    while not started(folder) and time.monotonic() < give_up:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "aborted" in out
    assert "Traceback" not in err
    summary = read_summary(folder)
    assert summary["status"] == "aborted"
    assert summary["error"] is None
    assert summary["episodes"] > 0
    assert (folder / "checkpoint" / "state.npz").exists()


def test_ctrl_c_at_an_awkward_moment_stops_the_workers_too(tmp_path, monkeypatch, capsys):
    """Right after a run was handed to its thread, before anybody waits for it: the run must not go on to its end."""
    submit = ThreadPoolExecutor.submit

    def interrupted(self, *args):
        future = submit(self, *args)
        signal.raise_signal(signal.SIGINT)
        return future

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupted)
    assert main([*ENDLESS, "--seeds", "2", "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().out.count("finished") == 0
    assert signal.getsignal(signal.SIGINT) is before


def test_a_worker_whose_parent_is_killed_stops_with_a_checkpoint(tmp_path):
    words = [*ENDLESS, "--out", str(tmp_path)]
    process = subprocess.Popen([*RLC, *words])
    folder = tmp_path / "default" / "tiny--low-rank" / "seed-0"
    give_up = time.monotonic() + 120
    while not started(folder) and time.monotonic() < give_up:
        time.sleep(0.02)
    process.kill()
    process.wait()
    while read_summary(folder) is None and time.monotonic() < give_up:
        time.sleep(0.02)
    assert read_summary(folder)["status"] == "aborted"


@pytest.fixture
def game_runs(tmp_path):
    """Folders of three finished runs of the tiny game that can be drawn: paper, rock, and a lazy mixture."""
    from games_common import fixed_run

    out = tmp_path / "runs"
    paper = fixed_run(out, "paper", mu=(0, 1, 0), nu=(0, 1, 0), env="tiny-drawn-game", horizon=2)
    rock = fixed_run(out, "rock", mu=(1, 0, 0), nu=(1, 0, 0), env="tiny-drawn-game", horizon=2)
    return out, paper, rock


def test_matches_of_a_folder(game_runs, tmp_path, capsys):
    out, _, _ = game_runs
    assert main(["matches", str(out), "--episodes", "20", "--out", str(tmp_path / "m"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    means = {(row["max"], row["min"]): row["mean_return"]["estimate"] for row in result["matches"]}
    assert means == {("paper", "paper"): 0, ("paper", "rock"): 2, ("rock", "paper"): -2, ("rock", "rock"): 0}
    assert main(["matches", str(out), "--episodes", "20", "--out", str(tmp_path / "m")]) == 0
    assert "Share of wins of max" in capsys.readouterr().out
    assert "no run folder" in complaint(capsys, ["matches", str(tmp_path / "m"), "--out", str(tmp_path / "n")])
    assert "at least one folder" in complaint(capsys, ["matches"])


def test_exploit_a_run(game_runs, tmp_path, capsys):
    _, paper, _ = game_runs
    words = ["exploit", str(paper), "--episodes", "100", "--eval-episodes", "50"]
    assert main([*words, "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["exact_gap"] == 4.0
    assert result["gap_lower_bound"]["estimate"] == 4.0  # scissors beat paper twice, on either side
    assert (paper / "exploit" / "table.md").is_file()
    assert "unknown agent" in complaint(capsys, [*words, "--agent", "ucbvy"])
    assert "is no run folder" in complaint(capsys, ["exploit", str(tmp_path)])


def test_replay_a_run(game_runs, tmp_path, capsys):
    _, paper, rock = game_runs
    words = ["replay", str(paper), "--against", str(rock), "--episodes", "1", "--out", str(tmp_path / "a.gif")]
    assert main([*words, "--strip", str(tmp_path / "a.png")]) == 0
    assert "episode 1: return 2" in capsys.readouterr().out
    assert (tmp_path / "a.gif").read_bytes()[:6] == b"GIF89a"
    assert main(["replay", str(paper)]) == 0
    assert (paper / "replay.gif").is_file()
    assert "must end in .gif" in complaint(capsys, ["replay", str(paper), "--out", "a.avi"])


def test_list_names_everything_registered(capsys):
    kinds = {"agents": "agent", "envs": "env", "objectives": "objective", "energy-objectives": "energy-objective"}
    for word, kind in kinds.items():
        assert main(["list", word]) == 0
        lines = capsys.readouterr().out.splitlines()
        names = [line.split()[0] for line in lines]
        assert sorted(names) == [e.name for e in registry.entries(kind)]
        assert [name.endswith(":") for name in names] == sorted((name.endswith(":") for name in names), reverse=True)
    assert main(["list"]) == 0
    everything = capsys.readouterr().out
    assert {"agents:", "envs:", "claims:"} <= set(everything.splitlines())
    assert main(["list", "experiments"]) == 0  # the name that claims had
    assert "regret-slope" in capsys.readouterr().out
    assert main(["list", "agents", "--json", "--import", TINY]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["tiny"]["fields"]["batch"] == "B, episodes between two updates (>= 1)."


@pytest.mark.parametrize(
    ("words", "gamma"),
    [([f"{OPTIONS}.gamma", "0.3"], 0.3), ([f"{OPTIONS}.gamma=1"], 1.0), ([OPTIONS, "gamma", "1"], 1.0), ([], 0.1)],
)
def test_an_objective_brings_its_own_options(words, gamma, tmp_path, capsys):
    few = ["--agent.batch", "8", "--agent.learner.steps", "2"]
    assert main([*MECO, *SMALL, *QUICK, *few, *words, "--out", str(tmp_path)]) == 0
    (file,) = tmp_path.rglob("config.json")
    assert json.loads(file.read_text())["agent_config"]["learner"]["objective_options"] == {"gamma": gamma}
    old = f"rlc: {OPTIONS} gamma 1 is written {OPTIONS}.gamma 1 now.\n"
    assert (old in capsys.readouterr().err) == (OPTIONS in words)


def test_help_explains_the_options_of_the_objective_that_is_named(capsys):
    assert main([*MECO, "--help-all"]) == 0
    assert f"{OPTIONS}.gamma FLOAT" in (shown := capsys.readouterr().out)
    assert "of the newest negatives in u" in shown
    assert main([*MECO[:3], "--help-all"]) == 0
    assert OPTIONS not in capsys.readouterr().out
    deep = ["run", "contrastive-ucb-deep", "deep-sea", "--agent.learner.representation.objective=infonce", "--help-all"]
    assert main(deep) == 0
    assert "--agent.learner.representation.objective-options.temperature FLOAT" in capsys.readouterr().out


def test_doctor_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "ok    python" in out
    assert " claims," in out
    assert main(["doctor", "--json"]) == 0
    found = {row["name"]: row["status"] for row in json.loads(capsys.readouterr().out)}
    assert found["numpy"] == "ok"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"usage: rlc {command}" in capsys.readouterr().out


def test_help_of_a_run_shows_every_field_with_its_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["run", "uniform", "combination-lock", "--help-all"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    entry, _ = registry.get("env", "combination-lock")
    for name, text in field_docs(entry.config).items():
        assert f"--env.{name.replace('_', '-')}" in shown
        assert text.split(".")[0] in shown
    for name in field_docs(RunFlags):
        assert f"--{name.replace('_', '-')}".replace("imports", "import") in shown
    assert "(default: 10)" in shown


OURS = [entry.name for entry in registry.entries("agent") if entry.factory.__module__.startswith("rl_contrastive.")]


@pytest.mark.parametrize("name", OURS)
def test_the_defaults_of_every_agent_can_be_given_on_the_command_line(name, capsys):
    assert main(["run", name, "low-rank", "--help-all"]) == 0
    assert "--agent.batch INT" in capsys.readouterr().out


def test_the_completion_of_a_shell_is_printed_and_nothing_is_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "uniform", "low-rank", "--tyro-print-completion", "bash"]) == 0
    assert list(tmp_path.iterdir()) == []


def test_short_help_shows_ten_options_of_the_run_and_where_the_rest_is(capsys):
    assert main(["run", "contrastive-ucb", "combination-lock", "--help"]) == 0
    shown = capsys.readouterr().out
    run_part = shown.partition("agent:")[0]
    assert run_part.count("\n  --") == len(FIRST) == 10
    assert "--agent.gamma" in shown
    assert "--agent.learner" not in shown  # a table of its own
    assert "--help-all" in shown
    assert max(map(len, shown.splitlines())) <= 120


@pytest.mark.parametrize(
    "words", [[], ["--help"], ["--version"], ["run", "--help"], ["run", "contrastive-ucb", "low-rank", "-h"]]
)
def test_help_is_quick_and_imports_nothing_heavy(words):
    heavy = ("torch", "stable_baselines3", "tensorboard", "matplotlib", "plotly", "scipy.optimize")
    code = (
        f"import sys; from rl_contrastive.cli import main; main({words!r}); "
        f"found = [name for name in {heavy} if name in sys.modules]; assert not found, found"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # CPU seconds, which a busy machine does not stretch as it does wall time; a third of it where nothing else runs
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2.5


def test_the_installed_script_is_this_main():
    script = Path(sys.executable).parent / "rlc"
    if not os.access(script, os.X_OK):
        pytest.skip("not installed as a script")
    assert subprocess.run([script, "--version"], capture_output=True, text=True, check=True).stdout.startswith("rlc ")
