"""What the documents name exists: paths, functions, commands; and their tables hold every registered name."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
from pathlib import Path
from typing import get_args

import pytest

from rl_contrastive import names, registry
from rl_contrastive.cli import COMMANDS, main
from rl_contrastive.runs.sweep import load_sweep

ROOT = Path(__file__).parent.parent
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "runs/README.md",
    "records/README.md",
    *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md") if "energy/" not in str(path)),
)
PATH = re.compile(
    r"`((?:rl_contrastive|agents|envs|features|planning|tests|docs|benchmarks|examples|records)/[\w./-]+)(:{1,2}[\w.]+)?`"
)


def first_column(document: str, heading: str) -> set[str]:
    """Names in backticks in the first column of the table under a heading."""
    text = (ROOT / document).read_text(encoding="utf-8").split(heading, 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_and_functions_exist(document):
    found = PATH.findall((ROOT / document).read_text(encoding="utf-8"))
    for path, name in found:
        if path.endswith("-v0") or "NAME" in path:  # a gymnasium id, a placeholder
            continue
        file = next((f for f in (ROOT / path, ROOT / "rl_contrastive" / path) if f.exists()), None)
        assert file is not None or list(ROOT.glob(path)), f"{document} names {path}"
        source = file.read_text(encoding="utf-8") if file is not None and file.is_file() else ""
        for part in re.findall(r"\w+", name):
            assert re.search(rf"(def|class) {part}\b|^{part}\b", source, re.MULTILINE), f"{document} names {path}{name}"


@pytest.mark.parametrize(
    ("document", "heading", "kind", "group"),
    [
        ("docs/agents/index.md", "# Agents\n", "agent", ""),
        ("docs/objectives.md", "# Objectives\n", "objective", ""),
        ("docs/objectives.md", "## Losses of embeddings\n", "view-objective", ""),
        ("docs/preferences.md", "## Losses of pairs\n", "pair-objective", ""),
        ("docs/preferences.md", "## Losses of reward models\n", "reward-objective", ""),
        ("docs/preferences.md", "## Losses of groups\n", "group-objective", ""),
        ("docs/theory.md", "## Claims, measured\n", "claim", "theory"),
        ("docs/energy.md", "## Claims, measured\n", "claim", "energy"),
        ("docs/objective-claims.md", "# Claims of objectives\n", "claim", "objectives"),
        ("docs/preference-claims.md", "# Claims of preferences\n", "claim", "preferences"),
        ("docs/exploration-claims.md", "# Claims of exploration\n", "claim", "exploration"),
    ],
)
def test_tables_hold_every_registered_name(document, heading, kind, group):
    # Other tests register agents of their own in this process.
    own = [e for e in registry.entries(kind, group) if e.factory.__module__.startswith("rl_contrastive.")]
    assert first_column(document, heading) == {e.name.removeprefix(f"{group}/") for e in own}


def test_the_which_agent_table_names_agents():
    assert first_column("README.md", "## Which agent?\n") <= set(names("agent"))


def test_every_command_is_one():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\brlc (\w+)", readme)) <= set(COMMANDS)
    assert set(re.findall(r"^rlc (\w+)", page, re.MULTILINE)) == set(COMMANDS)
    targets = set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)) <= targets, document


def test_readme_is_short():
    assert (ROOT / "README.md").read_text(encoding="utf-8").count("\n") <= 150


def commands(document: str, word: str) -> list[list[str]]:
    """Every `rlc word ...` of a page, in backticks or as a line of a block, without those that hold placeholders."""
    text = (ROOT / document).read_text(encoding="utf-8")
    lines = re.findall(rf"`(rlc {word} [^`]+)`", text) + re.findall(rf"^(?:\$ )?(rlc {word} .+)$", text, re.MULTILINE)
    split = [shlex.split(line, comments=True)[2:] for line in lines if "..." not in line and "[" not in line]
    return [words for words in split if not any(w.isupper() or w.split(".")[0].isupper() for w in words)]


def test_every_rlc_run_is_accepted(monkeypatch, capsys):
    started = []
    monkeypatch.setattr("rl_contrastive.cli.run.start", lambda agent, env, *_: started.append((agent, env)) or 0)
    for document in DOCUMENTS:
        for words in commands(document, "run"):
            files = [words[i + 1] for i, word in enumerate(words) if word == "--import"]
            if all((ROOT / file).exists() for file in files):
                assert main(["run", *words]) == 0, f"{document}: {words}: {capsys.readouterr().err}"
    assert len(started) > 10


def test_every_sweep_that_a_page_names_is_read():
    files = {words[0] for document in DOCUMENTS for words in commands(document, "sweep") if "/" in words[0]}
    assert len(files) > 30
    for file in sorted(files):
        load_sweep(ROOT / file)


def test_the_first_command_of_readme_prints_what_readme_says(tmp_path, capsys):
    (words,) = (words for words in commands("README.md", "run") if "combination-lock" in words)
    words[words.index("--seeds") + 1] = "1"
    assert main(["run", *words, "--out", str(tmp_path)]) == 0
    said = r"finished, \d+ episodes, [\d.]+ s, return 1\.000, solved at episode \d+, d 2 of the data, given whitening"
    printed = capsys.readouterr().out
    assert re.search(said, printed), printed
    assert re.search(said, (ROOT / "README.md").read_text(encoding="utf-8"))
    assert main(["compare", str(tmp_path), "--out", str(tmp_path / "compare")]) == 0
    assert (tmp_path / "compare" / "index.html").exists()
    assert (tmp_path / "compare" / "sample-efficiency.png").exists()


def blocks(document: str) -> list[str]:
    """The python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def _own_registry(monkeypatch):
    for kind in get_args(registry.Kind):
        registry.entries(kind)
    monkeypatch.setattr(registry, "_ENTRIES", dict(registry._ENTRIES))  # later tests must not see the pages' names


PRELUDE = """
import gymnasium as gym, numpy as np, torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from rl_contrastive.energy.energies import MLPEnergy, tilted
from rl_contrastive.energy.gaussian_mixture import fitted_noise
from rl_contrastive.energy.objectives import make
from rl_contrastive.energy.trainer import TrainConfig, Trainer
draw = np.random.default_rng(0)
s, a, s_next = (draw.integers(n, size=5000) for n in (20, 4, 20))
phi_of_visited, phi_of_candidates, payoffs = np.eye(8)[:3], np.eye(8), draw.uniform(size=(50, 3, 3))
rng = torch.Generator().manual_seed(0)
x = torch.randn(500, 2, generator=rng)
"""
"""What README's snippets leave to the reader: arrays of his own, and the imports of a file that it names."""


@pytest.mark.parametrize(
    "document",
    [
        "README.md",
        "docs/first-steps.md",
        "docs/environments.md",
        "docs/games.md",
        "docs/preferences.md",
        "docs/api/index.md",
    ],
)
@pytest.mark.usefixtures("_own_registry")
def test_the_python_of_a_page_runs(document, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    space: dict[str, object] = {"__name__": "page"}
    exec(PRELUDE if document == "README.md" else "", space)
    found = blocks(document)
    assert found
    for code in found:
        exec(compile(code, document, "exec"), space)
    if document == "README.md":
        assert max(code.strip().count("\n") for code in found[1:]) < 6  # the pieces: at most six lines
        assert len(found) == 6


@pytest.mark.long
def test_the_tutorial_runs(monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "Agg")
    cells = json.loads((ROOT / "docs" / "tutorial.ipynb").read_text(encoding="utf-8"))["cells"]
    space: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            assert cell["outputs"] or "def " in "".join(cell["source"]), "run `make notebook`"
            exec("".join(cell["source"]), space)
    assert space["tv_features"][-1] < 0.5 * space["tv_frequencies"][-1]
    with_bonus, without = (curve[-1][1] for curve in space["curves"].values())
    assert with_bonus > 0.7 > 0.3 > without


def test_the_site_has_a_page_for_every_agent_and_reads_its_options():
    hooks = runpy.run_path(str(ROOT / "docs" / "hooks.py"))
    for name in (e.name for e in registry.entries("agent") if e.factory.__module__.startswith("rl_contrastive.")):
        text = (ROOT / "docs" / "agents" / f"{name}.md").read_text(encoding="utf-8")
        assert f"<!-- options agent {name} -->" in text
        shown = hooks["filled"](text, 1)
        assert "`--agent.batch`" in shown
        assert "!!! abstract" in shown


def test_the_example_run_is_small_finished_and_made_by_the_command_that_its_readme_names(tmp_path):
    from rl_contrastive.analysis.compare import load
    from rl_contrastive.runs.run import read_config, resume

    (folder,) = [path.parent for path in (ROOT / "runs" / "example").rglob("config.json")]
    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 100_000
    command = json.loads((folder / "config.json").read_text())["meta"]["command"]
    assert f"\n{command}\n" in (ROOT / "runs" / "README.md").read_text(encoding="utf-8")
    (task,) = load([folder], reps=5)
    assert [run.status for run in task.groups[0].runs] == ["finished"]
    assert {"gap", "regret"} <= set(task.groups[0].exact)
    # Today's code reads its checkpoint, the last one of the run; if not, make the example again by its command.
    copy = Path(shutil.copytree(folder, tmp_path / folder.name))
    values = json.loads((copy / "config.json").read_text())
    assert values["episodes"] == 500
    (copy / "summary.json").unlink()
    before = (copy / "metrics.jsonl").read_bytes()
    summary = resume(copy)
    assert (summary["status"], summary["episodes"]) == ("finished", 500)
    assert (copy / "metrics.jsonl").read_bytes() == before
    assert read_config(copy) == read_config(folder)


@pytest.mark.long
def test_the_energy_page_s_code_runs(tmp_path, capsys):
    text = (ROOT / "docs" / "energy.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(code, {"folder": tmp_path})
    assert "PartitionEstimate" in capsys.readouterr().out


def test_the_energy_page_names_every_objective():
    from rl_contrastive.registry import entries

    assert {entry.name for entry in entries("energy-objective")} <= first_column(
        "docs/energy.md", "## What there is\n"
    ) | {"snis"}
