"""What the documents name exists: paths, functions, commands; and their tables hold every registered name."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from rl_contrastive import registry

ROOT = Path(__file__).parent.parent
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "docs/theory.md",
    "docs/objectives.md",
    "docs/energy.md",
    "docs/deep.md",
    "runs/README.md",
)
PATH = re.compile(r"`((?:rl_contrastive|agents|envs|features|planning|tests|docs|benchmarks)/[\w./-]+)(:{1,2}[\w.]+)?`")


def first_column(document: str, heading: str) -> set[str]:
    """Names in backticks in the first column of the table under a heading."""
    text = (ROOT / document).read_text(encoding="utf-8").split(heading, 1)[1].split("\n## ", 1)[0]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("|")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row)}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_and_functions_exist(document):
    found = PATH.findall((ROOT / document).read_text(encoding="utf-8"))
    for path, name in found:
        file = next((f for f in (ROOT / path, ROOT / "rl_contrastive" / path) if f.exists()), None)
        assert file is not None, f"{document} names {path}"
        source = file.read_text(encoding="utf-8") if file.is_file() else ""
        for part in re.findall(r"\w+", name):
            assert re.search(rf"(def|class) {part}\b|^{part}\b", source, re.MULTILINE), f"{document} names {path}{name}"
    assert found or document == "runs/README.md"


@pytest.mark.parametrize(
    ("document", "heading", "kind"),
    [
        ("README.md", "## Agents\n", "agent"),
        ("docs/objectives.md", "# Objectives\n", "objective"),
        ("docs/theory.md", "## Claims, measured\n", "claim"),
        ("docs/energy.md", "## Studies\n", "study"),
    ],
)
def test_tables_hold_every_registered_name(document, heading, kind):
    # Other tests register agents of their own in this process.
    names = {e.name for e in registry.entries(kind) if e.factory.__module__.startswith("rl_contrastive.")}
    assert first_column(document, heading) == names


def test_every_command_in_readme_is_one():
    from rl_contrastive.cli import COMMANDS

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\brlc (\w+)", text)) == set(COMMANDS)
    targets = set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", text)) <= targets


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
