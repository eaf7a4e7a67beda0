"""Progress lines: drawn on a terminal with counts, return and solved; silent elsewhere."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from rl_contrastive.runs import progress
from rl_contrastive.runs.progress import ProgressLines
from rl_contrastive.runs.workers import Job


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def report_two(lines: ProgressLines, config) -> None:
    for seed, solved in ((0, None), (1, 16)):
        job = Job(Path("runs/e/tiny--low-rank") / f"seed-{seed}", config)
        lines.report(job, {"episodes": 24, "env_steps": 72, "return": 0.25, "solved_at": solved})


def test_one_line_a_run_fits_a_terminal_of_80_columns(config, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with ProgressLines() as lines:
        report_two(lines, config)
    shown = sys.stderr.getvalue()
    assert "seed-0 tiny--low-rank" in shown
    assert "24/40" in shown
    assert "return 0.250" in shown
    assert shown.count("solved at 16") >= 1


def test_it_is_silent_at_first_and_when_asked(config, monkeypatch):
    for stream, quiet in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        with ProgressLines(quiet=quiet) as lines:
            report_two(lines, config)
        assert stream.getvalue() == ""


def test_a_pipe_gets_lines_with_the_time_that_is_left(config, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    jobs = [Job(Path("runs/e/tiny--low-rank") / f"seed-{seed}", config) for seed in range(4)]
    with ProgressLines(runs=4) as lines:
        clock[0] = 30.0  # a quarter of all in 30 s, then 3/8 in 36 s
        lines.report(jobs[0], {"episodes": 40, "env_steps": 120, "return": 1.0, "solved_at": None, "done": True})
        clock[0] = 36.0
        lines.report(jobs[1], {"episodes": 20, "env_steps": 60, "return": 0.25, "solved_at": None})
    first, second = stream.getvalue().splitlines()
    assert first == "rlc: 1 of 4 runs done, about 2 min left"
    assert second == "rlc: 1 of 4 runs done, about 60 s left; tiny--low-rank seed-1 20/40 episodes, return 0.250"


def test_without_a_number_of_runs_no_time_is_promised(config, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    with ProgressLines() as lines:
        for seed in range(2):
            clock[0] += 30.0
            job = Job(Path("runs/e/tiny--low-rank") / f"seed-{seed}", config)
            lines.report(job, {"episodes": 40, "env_steps": 120, "return": 1.0, "solved_at": None, "done": True})
    assert stream.getvalue().splitlines() == ["rlc: 1 runs done", "rlc: 2 runs done"]
