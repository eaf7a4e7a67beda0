"""Runs in parallel: each run has its own process, which gets a run folder and cannot harm other runs.

Each run has its own process with one BLAS thread, even if there is only one run, so that its bytes do not depend on
the number of runs beside it. It is forked from a server that has imported the library (`fork_server.py`). A process
that is killed or crashes fails only its own run. With `retries` another process continues from the run's checkpoint.

The parent keeps each worker's stdin open. Closing it (or the parent's death) asks the worker to stop after its current
batch, with a checkpoint; SIGTERM stops it at once. Workers ignore Ctrl-C, which reaches the parent.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

from rl_contrastive.config import Ge, Gt, Options
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.folder import SUMMARY, RunFolder, write_json
from rl_contrastive.runs.fork_server import FORKS, ForkServer, Worker, alone
from rl_contrastive.runs.run import RunConfig, Summary, read_summary

REPORT_SECONDS = 0.2
"""A worker reports its progress at most this often."""


@dataclass(frozen=True)
class Needs(Options):
    """Resources that one run asks of a cluster's scheduler. They do not limit local processes."""

    cpus: Annotated[float | None, Gt(0)] = None
    """CPUs of the run; default: its `threads`."""
    gpus: Annotated[float | None, Ge(0)] = None
    """GPUs of the run, parts of one allowed; default: 1 where its device is cuda, else 0."""


@dataclass(frozen=True)
class Job:
    """A run folder to continue; one made by `run.prepare` has not started yet."""

    folder: Path
    config: RunConfig
    """The contents of the folder's config.json."""
    fresh: bool = False
    """Whether it was just prepared; then the folder is removed if its config turns out to be impossible."""
    trusted: bool = False
    """Whether the user allowed the Python files that the config names to be run."""
    needs: Needs = Needs()
    """What the run asks of a cluster."""


@dataclass(frozen=True)
class Outcome:
    """How one job ended: a summary, or a sentence about bad input (then no run was started)."""

    job: Job
    summary: Summary | None
    bad_input: str | None = None
    died: bool = False
    """Whether the process ended without an answer: killed, out of memory, crashed."""


Report = Callable[[Job, dict[str, Any]], None]
Process = Worker | subprocess.Popen[str]


class Pool:
    """Runs jobs in at most `workers` processes at a time; one that dies is started again up to `retries` times."""

    def __init__(self, workers: int, report: Report = lambda job, message: None, *, retries: int = 0) -> None:
        self.workers, self.report, self.retries = max(1, workers), report, retries
        self._running: set[Process] = set()
        self._servers: dict[int, ForkServer] = {}
        self._guard = threading.RLock()  # a second Ctrl-C may come while the first is served
        self._stopping = False

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """All outcomes, in the order of the jobs. Ctrl-C stops them after their batch, a second one at once."""
        with on_ctrl_c(lambda: self.stop(at_once=self._stopping)), ThreadPoolExecutor(self.workers) as threads:
            futures = [threads.submit(self._one, job) for job in jobs]
            try:
                return [future.result() for future in futures]
            finally:
                self._close_servers()

    def stop(self, *, at_once: bool = False) -> None:
        """Ask the runs to stop after their batch, or end them; none is started any more."""
        with self._guard:
            self._stopping = True
            for process in self._running:
                if at_once:
                    process.terminate()
                elif process.stdin is not None and not process.stdin.closed:
                    process.stdin.close()

    def close(self) -> None:
        """Nothing is held between two calls of `run`."""

    def _one(self, job: Job) -> Outcome:
        outcome = self._once(job)
        for _ in range(self.retries):
            if not outcome.died or self._stopping:
                break
            print(f"rlc: {job.folder}: its process died and is started again.", file=sys.stderr)
            outcome = self._once(job)
        return outcome

    def _once(self, job: Job) -> Outcome:
        with self._guard:
            if self._stopping:
                return Outcome(job, None)
            process = self._start(job)
            self._running.add(process)
        try:
            return self._follow(job, process)
        finally:
            with self._guard:
                self._running.discard(process)

    def _start(self, job: Job) -> Process:
        process = self._process(job.config.threads)
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # killed already; `_follow` finds out
            process.stdin.write(json.dumps({"folder": str(job.folder), "trusted": job.trusted}) + "\n")
            process.stdin.flush()
        return process

    def _process(self, threads: int) -> Process:
        """A worker; BLAS reads its number of threads once, so each number has a server of its own."""
        if not FORKS:
            return alone(threads)
        server = self._servers.get(threads)
        if server is None or not server.alive:
            server = self._servers[threads] = ForkServer(threads)
        return server.start()

    def _close_servers(self) -> None:
        with self._guard:
            for server in self._servers.values():
                server.close()
            self._servers = {}

    def _follow(self, job: Job, process: Process) -> Outcome:
        """Pass on progress until the process ends; its last message is the outcome."""
        assert process.stdout is not None
        outcome: Outcome | None = None
        for line in process.stdout:
            message = json.loads(line)
            if "summary" in message:
                summary = message["summary"]
                outcome = Outcome(job, summary)
                self.report(job, last_message(summary))
            elif "bad_input" in message:
                outcome = Outcome(job, None, message["bad_input"])
                if job.fresh:
                    RunFolder(job.folder).discard()
            else:
                self.report(job, message)
        code = process.wait()
        return outcome or self._died(job, code)

    def _died(self, job: Job, code: int) -> Outcome:
        """Handle a process that ended without an answer. Its run can be resumed; it failed unless we stopped it."""
        how = f"signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"exit code {code}"
        error = f"the worker process ended with {how}; go on with `rlc resume {job.folder}`."
        with suppress(RlcError):  # it may have ended between its last line and its last word
            written = read_summary(job.folder)
            if written is not None and written.get("status") == "finished":
                return Outcome(job, written)
        stopped = self._stopping and -code == signal.SIGTERM
        return Outcome(job, write_ended(job, None if stopped else error), died=not stopped)


@contextmanager
def on_ctrl_c(act: Callable[[], None]) -> Iterator[None]:
    """A handler instead of KeyboardInterrupt, which could come between any two lines: the executor would then wait for
    runs that nobody has asked to stop."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, lambda number, frame: act())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def write_ended(job: Job, error: str | None) -> Summary:
    """The summary, here and in the folder, of a run that wrote none itself: failed with `error`, or else aborted."""
    c = job.config
    named = {"agent": c.agent, "env": c.shown_env, "label": c.shown_agent, "seed": c.seed}
    ended = {"status": "aborted" if error is None else "failed", "error": error}
    caps = {"episode_cap": c.budget.episodes, "step_cap": c.budget.steps}
    summary = {**named, **ended, "solved_at_episode": None, **caps}
    try:
        write_json(job.folder / SUMMARY, summary)
    except RlcError as problem:  # the folder is gone, or the disk is full
        summary["error"] = summary["error"] or str(problem)
    return summary


def worker_main() -> None:
    """Entry point of a worker process: one job from stdin, messages to stdout."""
    # All prints go to stderr, because stdout carries the protocol.
    channel, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr
    os.dup2(2, 1)
    signal.signal(signal.SIGTERM, _raise_interrupt)
    job = json.loads(sys.stdin.readline())
    stop = threading.Event()
    threading.Thread(target=_watch_parent, args=(sys.stdin, stop), daemon=True).start()
    message = _work(Path(job["folder"]), job["trusted"], channel, stop)
    _send(channel, message)
    # No interpreter shutdown: the watcher still holds stdin's lock, and everything is written and closed.
    sys.stderr.flush()
    os._exit(0)


def _raise_interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _watch_parent(stdin: IO[str], stop: threading.Event) -> None:
    stdin.read()
    stop.set()


def _send(channel: IO[str], message: dict[str, Any]) -> None:
    try:
        channel.write(json.dumps(message) + "\n")
        channel.flush()
    except BrokenPipeError:
        return  # the parent died; stdin's end stops this process after its batch


def _work(folder: Path, trusted: bool, channel: IO[str], stop: threading.Event) -> dict[str, Any]:
    """Do the job; the outcome as a message."""
    import time

    from rl_contrastive.runs.loop import Progress
    from rl_contrastive.runs.run import resume

    last = 0.0

    def report(progress: Progress) -> None:
        nonlocal last
        if (now := time.monotonic()) - last >= REPORT_SECONDS:
            last = now
            _send(channel, progress_message(progress))

    try:
        summary = resume(folder, on_progress=report, should_stop=stop.is_set, trust_imports=trusted)
    except RlcError as error:
        return {"bad_input": str(error)}
    return {"summary": summary}


def last_message(summary: Summary) -> dict[str, Any]:
    """The text of the progress line for a run that ended, on any engine."""
    return {
        "episodes": summary["episodes"],
        "env_steps": summary["env_steps"],
        "return": summary.get("final_return"),
        "solved_at": summary.get("solved_at_episode"),
        "done": True,
    }


def progress_message(progress: Any) -> dict[str, Any]:
    """The text of the progress line."""
    return {
        "episodes": progress.episodes,
        "env_steps": progress.env_steps,
        "return": progress.last_return,
        "solved_at": progress.solved_at[0] if progress.solved_at else None,
    }
