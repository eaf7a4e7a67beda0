"""Runs whose records are kept are those of their sweep, so that its command runs none of them again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rl_contrastive.runs.sweep import load_sweep, plan_jobs

ROOT = Path(__file__).parents[2]
NAMES = [path.name for path in sorted((ROOT / "records").iterdir()) if path.is_dir()]


@pytest.mark.parametrize("name", NAMES)
def test_a_sweep_finds_all_of_its_records(name: str, tmp_path: Path) -> None:
    out = tmp_path / name
    shutil.copytree(ROOT / "records" / name, out)
    runs = load_sweep(ROOT / "docs" / "results" / f"{name}.toml").runs
    kept = {path.parent for path in out.rglob("config.json")}
    jobs, done = plan_jobs(list(runs), out)
    assert set(done) == kept
    assert len(jobs) == len(runs) - len(kept)


def test_there_are_records() -> None:
    assert len(NAMES) >= 8


def test_records_name_no_folder_of_the_machine_they_were_made_on() -> None:
    for path in sorted((ROOT / "records").rglob("config.json")):
        command = json.loads(path.read_text("utf-8"))["meta"]["command"]
        assert not [word for word in command.split() if word.startswith(("/", "~"))], path
