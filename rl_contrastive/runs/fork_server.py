"""A process that imports the library once and then forks a worker for each job, which takes milliseconds.

A new interpreter takes longer to import agents, environments and scipy than many short runs take to train. The server
imports them, starts no thread and draws no number, so each worker begins in the same state. It waits on a socket; a job
is three pipe ends: the worker's stdin and stdout, and the end on which a monitor reports how the worker ended.

The parent may have threads, so it cannot fork safely itself. Where fork is not safe after imports (macOS), each worker
is a new interpreter instead.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import IO, NoReturn

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
SERVER = "from rl_contrastive.runs.fork_server import serve; serve()"
FORKS = sys.platform != "darwin"
"""Apple's libraries may crash in a forked process."""
DEAF = ("/bin/sh", "-c", 'trap "" INT; exec "$@"', "sh")
"""Starts a program that ignores Ctrl-C from the start, because ignored signals stay ignored after fork and exec."""


class Worker:
    """A forked worker, used as `subprocess.Popen` is; `stdin` and `stdout` are text."""

    def __init__(self, stdin: IO[str], stdout: IO[str], status: IO[str]) -> None:
        self.stdin, self.stdout, self._status = stdin, stdout, status
        self._pid = 0
        self._code: int | None = None
        self._guard = threading.Lock()

    @property
    def pid(self) -> int:
        """The worker's process id, 0 if the server died before it forked."""
        with self._guard:
            self._pid = self._pid or int(self._status.readline() or 0)
            return self._pid

    def terminate(self) -> None:
        """Send SIGTERM, unless the worker has ended."""
        if self.pid and self._code is None:
            os.kill(self.pid, signal.SIGTERM)

    def wait(self) -> int:
        """The exit code once the worker has ended; minus the signal's number where one ended it."""
        if self._code is None:
            # Without a word the monitor or the server was killed too.
            self._code = int((self._status.readline() if self.pid else "") or -signal.SIGKILL)
            for pipe in (self.stdin, self.stdout, self._status):
                with suppress(BrokenPipeError):  # a job that a dead worker never read is still to be flushed
                    pipe.close()
        return self._code


class ForkServer:
    """Starts workers with `threads` BLAS threads each."""

    def __init__(self, threads: int) -> None:
        self._socket, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [*DEAF, sys.executable, "-c", SERVER], stdin=theirs.fileno(), env=environment(threads)
        )
        theirs.close()

    def start(self) -> Worker:
        """A new worker, which runs `workers.worker_main`. It does not wait until the server is ready."""
        (read_in, stdin), (stdout, write_out), (status, write_status) = (os.pipe() for _ in range(3))
        theirs = [read_in, write_out, write_status]
        with suppress(BrokenPipeError):  # the server was killed: the closed pipes say so to whoever reads
            socket.send_fds(self._socket, [b"j"], theirs)
        for end in theirs:
            os.close(end)
        return Worker(os.fdopen(stdin, "w"), os.fdopen(stdout), os.fdopen(status))

    @property
    def alive(self) -> bool:
        """Whether it takes jobs."""
        return self._process.poll() is None

    def close(self) -> None:
        """End the server; workers that run go on."""
        self._socket.close()
        self._process.wait()


def alone(threads: int) -> subprocess.Popen[str]:
    """A worker in an interpreter of its own."""
    command = [*DEAF, sys.executable, "-c", "from rl_contrastive.runs.workers import worker_main; worker_main()"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment(threads))


def environment(threads: int) -> dict[str, str]:
    """The environment of a worker, with its number of BLAS threads."""
    return {**os.environ, **{name: str(threads) for name in THREAD_VARIABLES}}


def serve() -> NoReturn:
    """The server's main loop: until the parent closes its socket, fork a worker for each message."""
    from rl_contrastive.runs.workers import worker_main

    preload()
    channel = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # monitors that end leave no zombies
    while True:
        message, ends, _, _ = socket.recv_fds(channel, 1, 3)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            channel.close()
            _monitor(ends, worker_main)
        for end in ends:
            os.close(end)


def preload() -> None:
    """Import what nearly every run needs. A plugin that cannot be imported is left to the worker, which says so."""
    from rl_contrastive import registry
    from rl_contrastive.runs.tensorboard import import_writer

    with suppress(Exception):
        registry.entries("agent")
        registry.entries("env")
    import_writer()


def _monitor(ends: list[int], work: Callable[[], None]) -> NoReturn:
    """Fork the worker, report its process id and how it ended."""
    stdin, stdout, status = ends
    worker = os.fork()
    if worker == 0:
        os.close(status)
        os.dup2(stdin, 0)
        os.dup2(stdout, 1)
        os.close(stdin)
        os.close(stdout)
        work()
        os._exit(0)
    os.close(stdin)
    os.close(stdout)
    with os.fdopen(status, "w") as report:
        report.write(f"{worker}\n")
        report.flush()
        report.write(f"{os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])}\n")
    os._exit(0)
