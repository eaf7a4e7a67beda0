"""Progress lines: drawn on a terminal with counts, return and solved; silent elsewhere."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

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
    assert first == "rlc: 1 of 4 runs done"  # one report is no basis
    assert second == "rlc: 1 of 4 runs done, about 30 s left; tiny--low-rank seed-1 20/40 episodes, return 0.250"


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    seconds = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: seconds[0])
    return seconds


def test_no_time_is_told_without_a_basis(clock):
    pace = progress.Pace()
    clock[0] = 8.0  # processes start
    assert pace.left(0.01) is None
    clock[0] = 12.0
    assert pace.left(0.5) is None  # 4 s only
    clock[0] = 13.0
    assert pace.left(0.51) == pytest.approx(5.0 * 0.49 / 0.5)
    slow = progress.Pace()
    assert slow.left(0.0) is None
    clock[0] += 30.0
    assert slow.left(0.01) is None  # 1 % only
    clock[0] += 30.0
    assert slow.left(0.02) == pytest.approx(60.0 * 0.98 / 0.02)  # a minute is a basis


def test_the_time_left_follows_the_recent_rate(clock):
    pace, share = progress.Pace(), 0.0
    for _ in range(20):  # the replay fills: 1 % a second
        pace.left(share)
        clock[0], share = clock[0] + 1.0, share + 0.01
    for _ in range(100):  # then it learns: .1 % a second
        left = pace.left(share)
        clock[0], share = clock[0] + 1.0, share + 0.001
    assert left == pytest.approx((1.0 - share) / 0.001, rel=0.01)
    clock[0] += 1e4
    assert pace.left(share) > left  # it hangs
    assert pace.left(1.0) == 0.0


def test_a_resumed_run_does_not_count_what_was_done_before(clock):
    pace = progress.Pace()
    pace.left(0.5)
    clock[0] = 10.0
    assert pace.left(0.6) == pytest.approx(40.0)


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
