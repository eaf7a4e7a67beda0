"""Workers forked from a server: the bytes of a fresh interpreter, exit codes, and a server that is killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from rl_contrastive import registry
from rl_contrastive.runs import workers
from rl_contrastive.runs.budget import Budget
from rl_contrastive.runs.fork_server import ForkServer, environment
from rl_contrastive.runs.run import resolve
from rl_contrastive.runs.run_config import RunConfig
from rl_contrastive.runs.sweep import plan_jobs
from rl_contrastive.runs.workers import Pool


def jobs_of(out, seeds=2, threads=1, episodes=100):
    config = RunConfig(
        agent="contrastive-ucb",
        env="low-rank",
        env_config={"num_states": 6, "num_actions": 3, "horizon": 3, "rank": 2},
        budget=Budget(episodes=episodes, eval_every=50, eval_episodes=20),
        threads=threads,
    )
    return plan_jobs([resolve(config.__class__(**{**vars(config), "seed": s})) for s in range(seeds)], out)[0]


def metrics(out):
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(Path(out).rglob("metrics.jsonl"))}


def test_a_forked_worker_gives_the_bytes_of_a_fresh_interpreter(tmp_path, monkeypatch):
    Pool(2).run(jobs_of(tmp_path / "forked"))
    monkeypatch.setattr(workers, "FORKS", False)
    Pool(2).run(jobs_of(tmp_path / "alone"))
    assert len(metrics(tmp_path / "forked")) == 2
    assert metrics(tmp_path / "forked") == metrics(tmp_path / "alone")


def test_exit_codes_are_those_of_the_worker():
    server = ForkServer(1)
    stuck = server.start()  # waits for its job
    os.kill(stuck.pid, signal.SIGKILL)
    assert stuck.wait() == -signal.SIGKILL
    stuck.terminate()  # it has ended: no signal to a process that may have its number now
    empty = server.start()
    empty.stdin.close()  # no job: the worker fails to read one
    assert empty.wait() == 1
    server.close()
    assert not server.alive


def test_a_killed_server_fails_the_job_and_the_next_one_starts_again(tmp_path):
    pool = Pool(1, retries=1)
    start = ForkServer.start
    killed = []

    def start_and_kill(server):
        if not killed:
            killed.append(server._process.pid)
            os.kill(server._process.pid, signal.SIGKILL)
            server._process.wait()
        return start(server)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ForkServer, "start", start_and_kill)
        [outcome] = pool.run(jobs_of(tmp_path, seeds=1))
    assert killed
    assert outcome.summary["status"] == "finished"


def test_every_number_of_threads_has_a_server_of_its_own(tmp_path):
    assert environment(3)["OMP_NUM_THREADS"] == "3"
    jobs = [*jobs_of(tmp_path / "a", seeds=1), *jobs_of(tmp_path / "b", seeds=1, threads=2)]
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        init = ForkServer.__init__
        patch.setattr(ForkServer, "__init__", lambda self, threads: (seen.append(threads), init(self, threads))[1])
        assert [o.summary["status"] for o in Pool(1).run(jobs)] == ["finished", "finished"]
    assert sorted(seen) == [1, 2]


def test_a_plugin_that_cannot_be_imported_is_tried_again(monkeypatch):
    monkeypatch.setattr(registry, "_DISCOVERED", set())

    class Broken:
        def load(self):
            raise ImportError("no such plugin")

    monkeypatch.setattr(registry, "entry_points", lambda group: [Broken()])
    for _ in range(2):  # the second time as well: nothing was marked as found
        with pytest.raises(ImportError, match="no such plugin"):
            registry.entries("opponent")
