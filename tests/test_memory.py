"""Memory that is free in the heap goes back to the system."""

import ctypes
import sys

import pytest

from rl_contrastive.device import trim_heap

BLOCK, BLOCKS = 64 * 1024, 1500


def resident_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_free_blocks_between_used_ones_are_given_back():
    """Every other block is freed: the heap cannot shrink from its end, and keeps what is free until trimmed."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    blocks = [libc.malloc(BLOCK) for _ in range(BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 1, BLOCK)
    for block in blocks[::2]:
        libc.free(block)
    before = resident_mb()
    assert trim_heap()
    after = resident_mb()
    for block in blocks[1::2]:
        libc.free(block)
    assert before - after > 0.5 * BLOCKS / 2 * BLOCK / 2**20


def test_nothing_happens_elsewhere(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not trim_heap()
