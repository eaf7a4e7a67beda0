"""Which torch device a name means, the same words wherever a network is trained; and memory that is given back."""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING

from rl_contrastive.config import require

if TYPE_CHECKING:
    import torch


def check_device(name: str) -> None:
    """RlcError for a name that is none."""
    kind, _, number = name.partition(":")
    known = name in ("auto", "cpu", "cuda") or (kind == "cuda" and number.isdigit())
    require(known, f"device must be auto, cpu, cuda or cuda:N, got {name!r}.")


def resolve_device(name: str) -> torch.device:
    """auto -> cuda if there is one, else cpu; RlcError for a name that is none or that torch cannot use."""
    import torch  # runs of closed forms never get here

    check_device(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    require(name == "cpu" or torch.cuda.is_available(), f"device {name} was asked for, but torch sees no GPU.")
    return torch.device(name)


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
