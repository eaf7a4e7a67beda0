"""Serves the page of a folder of runs over HTTP on the loopback address, and updates it while runs continue.

There are two addresses, `/` and `/version`. No file is served, so no path leads out of the folder. Only the JSON files
of run folders are read, and nothing in them is executed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import socket
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from time import monotonic

from rl_contrastive.analysis import comparison, page
from rl_contrastive.analysis.notes import notes
from rl_contrastive.analysis.runs import FILES, Run, find_runs, read_run
from rl_contrastive.config import require
from rl_contrastive.errors import RlcError

ADDRESS = "127.0.0.1"
Stamp = tuple[tuple[int, int], ...]
"""Time of change (ns) and size of a run's files; (0, 0) where there is none."""
GOING = (
    "{n} run{s} no summary.json yet, because still going or killed: what {they} recorded so far counts as if {they} "
    "had ended there."
)


class Live:
    """The current page of a folder of runs; runs whose files did not change are read once."""

    def __init__(
        self,
        folder: Path,
        *,
        bar: float = 0.9,
        solve_gap: float = 0.05,
        reps: int = 2000,
        seconds: float = 5.0,
    ) -> None:
        require(folder.is_dir(), f"view: there is no folder {folder}.")
        require(0.0 < bar <= 1.0, f"view: bar must lie in (0, 1], got {bar}.")
        require(solve_gap > 0.0, f"view: solve_gap must be > 0, got {solve_gap}.")
        self.folder, self.bar, self.solve_gap, self.reps, self.seconds = folder, bar, solve_gap, reps, seconds
        self._lock = Lock()
        self._runs: dict[Path, tuple[Stamp, Run]] = {}
        self._stamps: dict[Path, Stamp] = {}
        self._looked = -1.0
        self._made: tuple[str, str] = ("", "")

    def version(self) -> str:
        """A digest of the names, sizes and times of the runs' files; looked up at most once a second."""
        with self._lock:
            return self._version()

    def html(self) -> str:
        """The page of this version, made once."""
        with self._lock:
            version = self._version()
            if self._made[0] != version:
                self._made = (version, self._page(version))
            return self._made[1]

    def _version(self) -> str:
        if self._looked < 0 or monotonic() - self._looked >= 1.0:
            self._stamps, self._looked = stamps(self.folder), monotonic()
        told = "\n".join(f"{path} {stamp}" for path, stamp in self._stamps.items())
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def _page(self, version: str) -> str:
        title = f"Runs in {self.folder.resolve().name}"
        if not self._stamps:
            return page.waiting(title, "There is no run yet.", live=version, seconds=self.seconds)
        for path, stamp in self._stamps.items():
            if path not in self._runs or self._runs[path][0] != stamp:
                self._runs[path] = (stamp, read_run(path))
        self._runs = {path: self._runs[path] for path in self._stamps}
        runs = [run for _, run in self._runs.values()]
        going = sum(is_going(run) for run in runs)
        shown = [replace(run, status="finished", error=None) if is_going(run) else run for run in runs]
        tasks = comparison.build(shown, bar=self.bar, solve_gap=self.solve_gap, reps=self.reps, seed=0)
        words = {"n": going, "s": " has" if going == 1 else "s have", "they": "it" if going == 1 else "they"}
        sentences = [GOING.format(**words)] if going else []
        sentences += notes(tasks, bar=self.bar, solve_gap=self.solve_gap, reps=self.reps, seed=0)
        return page.html(
            tasks,
            sentences,
            bar=self.bar,
            solve_gap=self.solve_gap,
            title=title,
            figures=[],
            live=version,
            seconds=self.seconds,
        )


def is_going(run: Run) -> bool:
    """Whether a run has recorded something and no end: its summary.json, alone, is missing."""
    return run.status == "aborted" and not run.summary and bool(run.series)


def stamps(folder: Path) -> dict[Path, Stamp]:
    """Run folders below `folder` -> when their files changed; empty if there are none, or no folder any more."""
    try:
        found = find_runs([folder])
    except (RlcError, OSError):
        return {}
    return {path: tuple(_stamp(path / name) for name in (*FILES, "timing.jsonl")) for path in found}


def _stamp(file: Path) -> tuple[int, int]:
    try:
        stat = file.stat()
    except OSError:
        return (0, 0)
    return (stat.st_mtime_ns, stat.st_size)


class Handler(BaseHTTPRequestHandler):
    """Answers GET of the two addresses, asked for by a name of this machine's loopback."""

    server: Server

    def do_GET(self) -> None:
        """The page or its version; anything else is not found."""
        # A page of another site whose name points here (DNS rebinding) must not read this page.
        if self.headers.get("Host", "").rpartition(":")[0] not in (ADDRESS, "localhost"):
            self._answer(403, "text/plain", "Ask for 127.0.0.1 or localhost.\n")
        elif self.path == "/":
            self._answer(200, "text/html", self.server.live.html())
        elif self.path == "/version":
            self._answer(200, "text/plain", self.server.live.version())
        else:
            self._answer(404, "text/plain", "There is nothing here but /.\n")

    def _answer(self, code: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the reader left
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing, because a line for each request would hide the address."""


class Server(ThreadingHTTPServer):
    """A server of one page."""

    daemon_threads = True
    allow_reuse_port = False

    def __init__(self, live: Live, port: int) -> None:
        self.live = live
        super().__init__((ADDRESS, port), Handler)

    def server_bind(self) -> None:
        """Bind without looking up a name for the address, which may ask the network."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = ADDRESS, int(self.server_address[1])


def server(live: Live, port: int) -> Server:
    """A server that listens on 127.0.0.1; RlcError in a sentence where the port is taken or not allowed."""
    try:
        return Server(live, port)
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        why = "is taken by another program" if taken else f"cannot be used ({error.strerror})"
        raise RlcError(f"view: port {port} {why}; choose another with --port, or --port 0 for any free one.") from error
