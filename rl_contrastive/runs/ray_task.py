"""The task that executes a run on a node of a Ray cluster; it starts the same worker process as the local engine.

A task gets text and bytes and returns text and bytes, and nothing else. If the node sees the sweep's folder (a shared
disk), the run is executed there. Otherwise its folder arrives as a parcel, is unpacked in a folder of the node, and is
sent back.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from rl_contrastive.config import require
from rl_contrastive.errors import RlcError
from rl_contrastive.runs.folder import CONFIG, RunFolder, read_json, run_id
from rl_contrastive.runs.origin import processor, versions
from rl_contrastive.runs.parcel import further, pack, unpack
from rl_contrastive.runs.run_config import read_config
from rl_contrastive.runs.workers import Job, Pool

PATIENCE = 600.0
"""Seconds that a second attempt waits for the process of the first one, which ends after its current batch."""
TELL_SECONDS = 1.0
"""A task tells the desk of its progress at most this often."""
Answer = dict[str, Any]


class Desk:
    """An actor beside the driver: tasks leave their progress here and learn whether to stop."""

    def __init__(self) -> None:
        self.notes: dict[int, str] = {}
        self.stopped = False

    def note(self, number: int, message: str) -> bool:
        """Keep the newest message of run `number` ("": it has begun); whether to stop."""
        self.notes[number] = message
        return self.stopped

    def collect(self) -> dict[int, str]:
        """The messages since the last call."""
        notes, self.notes = self.notes, {}
        return notes

    def stop(self) -> None:
        """Tell all tasks to stop."""
        self.stopped = True


def work(text: str, parcel: bytes, desk: Any) -> tuple[str, bytes]:
    """Go on with one run: its order as JSON, its folder where it may be needed -> how it ended, its folder if it was
    worked on here."""
    import ray

    order = json.loads(text)
    here = {"node": socket.gethostname(), "node_id": ray.get_runtime_context().get_node_id(), "processor": processor()}
    try:
        answer, back = _work(order, parcel, desk)
    except RlcError as error:
        answer, back = {"bad_input": str(error)}, b""
    return json.dumps({**here, **answer}), back


def _work(order: dict[str, Any], parcel: bytes, desk: Any) -> tuple[Answer, bytes]:
    if _tell(desk, order["number"], ""):
        return {"summary": None}, b""
    with suppress(OSError):  # modules beside the user's files are found as by a local run
        os.chdir(order["cwd"])
    _require_versions(order["versions"])
    shared = not order["apart"] and Path(order["marker"]).exists()
    if not shared and not parcel:
        return {"send_folder": True}, b""
    folder = Path(order["folder"]) if shared else scratch(order["run_id"])
    if not shared and not further(parcel, folder):
        unpack(parcel, folder)
    if order["attempt"] > 0:
        held = RunFolder(folder)
        held.lock(PATIENCE)
        held.unlock()
    answer = _run(Job(folder, read_config(folder), order["fresh"], order["trusted"]), order, desk)
    return answer, b"" if shared or "bad_input" in answer else pack(folder)


def _run(job: Job, order: dict[str, Any], desk: Any) -> Answer:
    """One worker process, as on the driver's machine; it is asked to stop when the desk says so."""
    told = 0.0

    def report(job: Job, message: dict[str, Any]) -> None:
        nonlocal told
        if (now := time.monotonic()) - told >= TELL_SECONDS:
            told = now
            if _tell(desk, order["number"], json.dumps(message)):
                pool.stop()

    pool = Pool(1, report, retries=order["retries"])
    outcome = pool.run([job])[0]
    if outcome.bad_input is not None:
        return {"bad_input": outcome.bad_input}
    return {"summary": outcome.summary, "died": outcome.died}


def _tell(desk: Any, number: int, message: str) -> bool:
    """Leave a message; whether to stop. A desk that does not answer costs the progress line, not the run."""
    import ray

    try:
        return bool(ray.get(desk.note.remote(number, message), timeout=10.0))
    except ray.exceptions.RayError:
        return False


def scratch(run: str) -> Path:
    """The folder of a run on a node that does not see the sweep's."""
    require(run.isalnum(), f"{run!r} is no run id.")
    place = Path(tempfile.gettempdir()) / f"rlc-{os.getuid()}"
    place.mkdir(mode=0o700, exist_ok=True)
    require(place.stat().st_uid == os.getuid(), f"{place} belongs to somebody else.")
    return place / run


def forget(run: str) -> None:
    """Remove this node's folder of a run, once the driver has it."""
    shutil.rmtree(scratch(run), ignore_errors=True)


def run_id_of(folder: Path) -> str:
    """The run id in config.json; runs older than it cannot travel."""
    found = run_id(read_json(folder / CONFIG))
    require(found is not None, f"{folder} is older than run ids and cannot be run on a cluster: use --engine local.")
    return str(found)


def _require_versions(wanted: dict[str, str | None]) -> None:
    """RlcError where this node has other versions than the driver: the same seed could give other bytes."""
    mine = versions()
    other = [f"{name} {mine.get(name)} in place of {value}" for name, value in wanted.items() if mine[name] != value]
    require(not other, f"the node {socket.gethostname()} has {', '.join(other)}: install the same versions everywhere.")
