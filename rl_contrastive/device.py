"""Which torch device a name means, the same words wherever a network is trained; copies to it and back; memory."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_contrastive.config import Options, require
from rl_contrastive.errors import RlcError
from rl_contrastive.spec import Array

if TYPE_CHECKING:
    import torch

GIB = 1 << 30
ASKED = 1 << 28
"""Bytes from which on it is asked whether there is room."""


def require_tensor(who: str, what: str, value: object) -> None:
    """RlcError unless it is a tensor."""
    import torch

    require(isinstance(value, torch.Tensor), f"{who}: {what} must be a torch tensor, got {type(value).__name__}.")


def check_device(name: str) -> None:
    """RlcError for a name that is none."""
    kind, _, number = name.partition(":")
    known = name in ("auto", "cpu", "cuda") or (kind == "cuda" and number.isascii() and number.isdigit())
    require(known, f"device must be auto, cpu, cuda or cuda:N, got {name!r}.")


class DeviceOptions(Options):
    """Base of a config with a field `device`, whose name is checked like the ranges."""

    device: str

    def __post_init__(self) -> None:
        super().__post_init__()
        check_device(self.device)


def require_device(name: str) -> None:
    """RlcError unless this machine has the device; `auto` and `cpu` are always there, and torch is not asked."""
    check_device(name)
    if name not in ("auto", "cpu"):
        resolve_device(name)


def require_devices(values: dict[str, Any]) -> None:
    """`require_device` of every option `device` in the table of a config: also where no network may ever be opened."""
    for name, value in values.items():
        if isinstance(value, dict):
            require_devices(value)
        elif name == "device" and isinstance(value, str):
            require_device(value)


def resolve_device(name: str) -> torch.device:
    """auto -> cuda if there is one, else cpu; RlcError for a name that is none or that torch cannot use."""
    import torch  # runs of closed forms never get here

    check_device(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    require(name == "cpu" or torch.cuda.is_available(), f"device {name} was asked for, but torch sees no GPU.")
    count = torch.cuda.device_count() if name.startswith("cuda:") else 1
    seen = "one GPU, cuda:0" if count == 1 else f"{count} GPUs, cuda:0 to cuda:{count - 1}"
    inside = not name.startswith("cuda:") or int(name[5:]) < count
    require(inside, f"device {name} was asked for, but torch sees {seen}.")
    return torch.device(name)


def put(array: Array, device: torch.device) -> torch.Tensor:
    """The array on the device: without a copy where that is the CPU, without waiting for it where it is a GPU."""
    import torch

    # torch warns of arrays that cannot be written, such as broadcast pictures.
    return move(torch.from_numpy(np.ascontiguousarray(array) if array.flags.writeable else array.copy()), device)


def move(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on the device. From the CPU to a GPU it goes by pinned memory, from where copies do not block."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def fetch(tensor: torch.Tensor) -> Array:
    """A tensor as an array. Where it is on a GPU, the program waits until that has done all it was told to do."""
    return np.asarray(tensor.detach().cpu().numpy())


def copies(tensors: Mapping[str, torch.Tensor]) -> dict[str, Array]:
    """Named tensors as arrays of their own, in the same order, as checkpoints keep them."""
    return {name: copied(tensor) for name, tensor in tensors.items()}


def copied(tensor: torch.Tensor) -> Array:
    """A tensor as an array of its own."""
    return np.asarray(tensor.detach().to("cpu", copy=True).numpy())


def fetch_numbers(numbers: dict[str, Any]) -> dict[str, float]:
    """Numbers, some of them tensors of one device, as floats: all tensors in one `fetch`."""
    import torch

    tensors = {name: number for name, number in numbers.items() if isinstance(number, torch.Tensor)}
    if tensors:
        found = fetch(torch.stack([tensor.detach().reshape(()).double() for tensor in tensors.values()]))
        numbers = {**numbers, **dict(zip(tensors, found.tolist(), strict=True))}
    return {name: float(number) for name, number in numbers.items()}


def waits(device: torch.device) -> bool:
    """Whether `fetch` waits: on a GPU, which works on what it was told while the program goes on."""
    return device.type != "cpu"


def free_memory() -> int | None:
    """Bytes that this process may still use, by the system, its container and its own limit; None if nobody says."""
    known = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                known.append(1024 * int(line.split()[1]))
    with contextlib.suppress(OSError, ValueError):  # "max": no limit
        known.append(int(Path("/sys/fs/cgroup/memory.max").read_text()))
    with contextlib.suppress(ImportError, OSError):
        import resource  # not on Windows

        limit = resource.getrlimit(resource.RLIMIT_AS)[0]
        if limit != resource.RLIM_INFINITY:
            known.append(limit)
    return min(known, default=None)


def require_memory(needed: int, what: str, hint: str) -> None:
    """RlcError with what is needed, what there is and what helps, where there is too little; little is not refused."""
    if needed < ASKED:
        return
    free = free_memory()
    have = "" if free is None else f", but {free / GIB:.1f} GiB are free"
    require(free is None or needed <= free, f"{what} needs {needed / GIB:.1f} GiB{have}: {hint}.")


@contextlib.contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """An allocation that fails within, numpy's or torch's, as one RlcError."""
    hint = f"{what} needs more memory than there is: lower the sizes among its options"
    try:
        yield
    except MemoryError as error:
        text = " ".join(str(error).split()).rstrip(".")
        raise RlcError(f"{hint}{' (' + text + ')' if text else ''}.") from error
    except RuntimeError as error:  # what torch raises, on the CPU and on a GPU
        if "allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        raise RlcError(f"{hint}.") from error


def trim_heap() -> bool:
    """Give the free pages of the heap back to the system; False where the C library has no malloc_trim (not glibc).

    Before version 2.38 glibc seldom reuses what torch's aligned tensors leave behind where small objects are allocated
    between them, so the heap of a long run grows without any leak.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is None:
        return False
    trim(0)
    return True
