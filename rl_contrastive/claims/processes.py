"""Measurements side by side, each in a process of its own; the numbers do not depend on how many there are."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch inside, whether it is imported already or only there.

    The numbers then depend neither on the machine's cores nor on how many claims run side by side, and threads of small
    products do not wait for each other on a busy machine.
    """
    torch = sys.modules.get("torch")
    before = None if torch is None else torch.get_num_threads()
    if torch is not None:
        torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # what torch reads when it is imported
    try:
        yield
    finally:
        if torch is not None:
            torch.set_num_threads(before)


def measured(work: Callable[[T], R], tasks: Sequence[T], workers: int) -> Iterator[tuple[T, R]]:
    """(task, work(task)) as they end, each on one thread of torch.

    `work` is a function of a module or a partial of one: processes import it.
    """
    if workers == 1 or len(tasks) <= 1:
        yield from ((task, _alone(work, task)) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")  # forking a process with threads can hang
    with ProcessPoolExecutor(min(workers, len(tasks)), mp_context=context) as pool:
        futures = {pool.submit(_alone, work, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _alone(work: Callable[[T], R], task: T) -> R:
    with one_thread():
        return work(task)
