"""Runs as tasks of a Ray cluster: the driver sends them out, receives their folders, and sends lost runs out again.

Only the driver decides about retries. A run whose node or Ray worker died continues from the checkpoint in its folder,
if the folder survived. Ray is given only text and bytes.
"""

from __future__ import annotations

import json
import math
import os
import sys
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rl_contrastive.errors import RlcError
from rl_contrastive.runs import ray_task
from rl_contrastive.runs.folder import RunFolder
from rl_contrastive.runs.origin import processor, versions
from rl_contrastive.runs.parcel import pack, unpack
from rl_contrastive.runs.workers import Job, Outcome, Report, last_message, on_ctrl_c, write_ended

if TYPE_CHECKING:
    from rl_contrastive.runs.engine_options import EngineOptions

POLL_SECONDS = 0.5
"""The driver looks for progress and for Ctrl-C at least this often."""


@dataclass(frozen=True)
class _Try:
    """One attempt at one job."""

    number: int
    """Of the job."""
    attempt: int = 0
    send: bool = False
    """The node asked for the folder."""


class RayEngine:
    """Runs each job as one Ray task; Ray decides where and when."""

    def __init__(self, options: EngineOptions, report: Report) -> None:
        self.options, self.report = options, report
        self.retries = 3 if options.retries is None else options.retries
        self._stops = 0
        self._own = False  # a connection to end
        self._begun: set[int] = set()
        self._versions, self._processors = versions(), {processor()}
        self._clean_up: list[Any] = []

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """All outcomes, in the order of the jobs."""
        if not jobs:
            return []
        self._connect(jobs)
        with _marked(jobs[0].folder) as marker, on_ctrl_c(lambda: self.stop(at_once=self._stops > 0)):
            return self._drive(jobs, marker)

    def stop(self, *, at_once: bool = False) -> None:
        """As `Engine.stop`. The driver's loop acts on it: this may be called in the middle of a call to Ray."""
        self._stops = max(self._stops, 2 if at_once else 1)

    def close(self) -> None:
        """End the connection that this engine made."""
        import ray

        if self._own:
            ray.shutdown()
            self._own = False

    def _drive(self, jobs: Sequence[Job], marker: Path) -> list[Outcome]:
        import ray

        desk = _start_desk()
        self._begun, self._clean_up = set(), []
        outcomes = [Outcome(job, None) for job in jobs]
        waiting = deque(_Try(number) for number in range(len(jobs)))
        flying: dict[Any, _Try] = {}
        most = self.options.workers or len(jobs)
        stops = 0
        while flying or (waiting and not self._stops):
            while waiting and len(flying) < most and not self._stops:
                this = waiting.popleft()
                try:
                    flying[self._send(jobs[this.number], this, marker, desk)] = this
                except RlcError as error:
                    outcomes[this.number] = Outcome(jobs[this.number], None, str(error))
            if flying:
                for ref in ray.wait(list(flying), timeout=POLL_SECONDS)[0]:
                    this = flying.pop(ref)
                    landed = self._land(jobs[this.number], this, ref)
                    if isinstance(landed, Outcome):
                        outcomes[this.number] = landed
                    else:
                        waiting.appendleft(landed)
            self._pass_on(jobs, desk)
            if self._stops > stops:
                stops = self._stops
                self._halt(flying, desk)
        if self._clean_up:
            ray.wait(self._clean_up, num_returns=len(self._clean_up), timeout=10.0)
        return outcomes

    def _send(self, job: Job, this: _Try, marker: Path, desk: Any) -> Any:
        """Give a run to Ray. The small folder of a new run is sent along, any other only if a node asks for it."""
        import ray

        order = {
            "number": this.number,
            "attempt": this.attempt,
            "folder": str(job.folder.resolve()),
            "run_id": ray_task.run_id_of(job.folder),
            "marker": str(marker),
            "apart": self.options.disk == "apart",
            "fresh": job.fresh,
            "trusted": job.trusted,
            "retries": self.retries,
            "cwd": str(Path.cwd()),
            "versions": self._versions,
        }
        parcel = pack(job.folder) if this.send or job.fresh or self.options.disk == "apart" else b""
        cpus, gpus = resources(job, self.options)
        task: Any = ray.remote(ray_task.work)
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0, "name": job.folder.name}
        return task.options(**options).remote(json.dumps(order), parcel, desk)

    def _land(self, job: Job, this: _Try, ref: Any) -> Outcome | _Try:
        """How an attempt ended, or the next one."""
        import ray

        try:
            text, parcel = ray.get(ref)
        except ray.exceptions.TaskCancelledError:
            return Outcome(job, None)
        except ray.exceptions.RayTaskError as error:
            why = " ".join(str(error.cause).split()).rstrip(".")
            return Outcome(job, None, f"a node could not start {job.folder}: {type(error.cause).__name__}: {why}.")
        except ray.exceptions.RayError as error:  # its Ray worker, its node or its result is gone
            return self._lost(job, this, type(error).__name__)
        answer = json.loads(text)
        self._note_processor(answer)
        if answer.get("send_folder"):
            return _Try(this.number, this.attempt, send=True)
        if answer.get("bad_input") is not None:
            if job.fresh:
                RunFolder(job.folder).discard()
            return Outcome(job, None, answer["bad_input"])
        return self._store(job, answer, parcel)

    def _store(self, job: Job, answer: dict[str, Any], parcel: bytes) -> Outcome:
        """Write a folder that was sent back, let its node remove it, and return how the run ended."""
        import ray

        summary = answer["summary"]
        if parcel:
            try:
                unpack(parcel, job.folder)
            except RlcError as error:
                return Outcome(job, {**(summary or {}), "status": "failed", "error": str(error)})
            if answer.get("died"):  # its sentence names a folder of the node
                summary = write_ended(job, f"its process died on {answer['node']}; the same command goes on.")
            forget: Any = ray.remote(ray_task.forget).options(num_cpus=0, scheduling_strategy=_at(answer["node_id"]))
            self._clean_up.append(forget.remote(ray_task.run_id_of(job.folder)))
        if summary is not None and "episodes" in summary:
            self.report(job, last_message(summary))
        return Outcome(job, summary, died=bool(answer.get("died")))

    def _lost(self, job: Job, this: _Try, what: str) -> Outcome | _Try:
        """Try again, as often as the user allows."""
        if self._stops:
            return Outcome(job, None)
        if this.attempt < self.retries:
            print(f"rlc: {job.folder}: its node or Ray worker is gone ({what}); it is sent out again.", file=sys.stderr)
            return _Try(this.number, this.attempt + 1, this.send)
        error = f"its node or Ray worker died {this.attempt + 1} times ({what}); the same command goes on."
        return Outcome(job, write_ended(job, error), died=True)

    def _pass_on(self, jobs: Sequence[Job], desk: Any) -> None:
        import ray

        with suppress(ray.exceptions.RayError):
            for number, text in ray.get(desk.collect.remote(), timeout=10.0).items():
                self._begun.add(number)
                if text:
                    self.report(jobs[number], json.loads(text))

    def _halt(self, flying: dict[Any, _Try], desk: Any) -> None:
        """Called once: running tasks stop after their batch, and others do not start. Called twice: all end."""
        import ray

        desk.stop.remote()
        for ref, this in flying.items():
            if self._stops > 1 or this.number not in self._begun:
                ray.cancel(ref, force=self._stops > 1)

    def _note_processor(self, answer: dict[str, Any]) -> None:
        """Say it once where a node's processor is another one: its matrix library may round differently."""
        if answer["processor"] not in self._processors:
            self._processors.add(answer["processor"])
            sentence = f"rlc: {answer['node']} has another processor ({answer['processor']}); last bits may differ."
            print(sentence, file=sys.stderr)

    def _connect(self, jobs: Sequence[Job]) -> None:
        """Join the cluster, or start a Ray of this machine. A connection of the caller's is used as it is."""
        import ray

        if ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        address = self.options.address or os.environ.get("RAY_ADDRESS")
        where: dict[str, Any] = {"address": address or "local"}
        if address is None:
            each = max(resources(job, self.options)[0] for job in jobs)
            cpus = self.options.workers and math.ceil(self.options.workers * each)
            where |= {"num_cpus": cpus, "include_dashboard": False}
        try:
            ray.init(**where, log_to_driver=False, logging_level="ERROR")
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            why = str(error).strip().partition("\n")[0].rstrip(".")
            raise RlcError(f"cannot connect to Ray at {where['address']}: {why}.") from error
        self._own = True


def resources(job: Job, options: EngineOptions) -> tuple[float, float]:
    """(CPUs, GPUs) of a run: the flags before the file, the file before the run's threads and device."""
    cpus, gpus = options.cpus or job.needs.cpus, options.gpus
    gpus = job.needs.gpus if gpus is None else gpus
    return cpus or job.config.threads, float(job.config.device.startswith("cuda")) if gpus is None else gpus


def _start_desk() -> Any:
    """The desk, on the driver's node: it lives as long as the sweep."""
    import ray

    desk: Any = ray.remote(ray_task.Desk)
    return desk.options(num_cpus=0, scheduling_strategy=_at(ray.get_runtime_context().get_node_id())).remote()


def _at(node: str) -> Any:
    """On this node and on no other one."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node, soft=False)


@contextmanager
def _marked(folder: Path) -> Iterator[Path]:
    """A file by which a node knows that it sees this disk, and not another one with the same names."""
    marker = folder.resolve().parent.parent / f".rlc-{uuid.uuid4().hex}"
    try:
        marker.touch()
    except OSError as error:
        raise RlcError(f"cannot write {marker}: {error.strerror}.") from error
    try:
        yield marker
    finally:
        marker.unlink(missing_ok=True)
