"""Files that are whole or not there: written beside, synced, renamed; a kill or a full disk leaves the old one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, TypeVar

from rl_contrastive.errors import RlcError

T = TypeVar("T")


def durably(path: Path, write: Callable[[IO[bytes]], T]) -> T:
    """`write` a file beside `path`, sync it and give it its name; returns what `write` does. OSError on a full disk."""
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "wb") as file:
        answer = write(file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)
    return answer


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """A text file in UTF-8; RlcError where it cannot be written."""
    try:
        durably(path, lambda file: file.write(text.encode()))
    except OSError as error:
        raise RlcError(f"cannot write {path}: {error.strerror}.") from error
