"""Files that are whole or not there: written beside, synced, renamed; a kill or a full disk leaves the old one.

And arrays read back from such files: nothing is read before its size is known to fit, so no file can fill the memory.
"""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np

from rl_contrastive.errors import RlcError

T = TypeVar("T")


def durably(path: Path, write: Callable[[IO[bytes]], T]) -> T:
    """`write` a file beside `path`, sync it and give it its name; returns what `write` does. OSError on a full disk."""
    temporary = path.with_name(path.name + ".part")
    try:
        with open(temporary, "wb") as file:
            answer = write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # whatever ends it: half a file is worth nothing
        temporary.unlink(missing_ok=True)
        raise
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


def check_stored(archive: zipfile.ZipFile, size: int) -> None:
    """RlcError unless the entries lie in the file of `size` bytes as they are: not compressed, encrypted or repeated.

    So what is read is never larger than the file. A small file that claims to expand to gigabytes is refused unread.
    """
    entries = archive.infolist()
    plain = all(e.compress_type == zipfile.ZIP_STORED and not e.flag_bits & 1 for e in entries)
    fits = sum(e.file_size for e in entries) <= size and all(e.file_size == e.compress_size for e in entries)
    names = {e.filename for e in entries}
    if not (plain and fits and len(names) == len(entries)):
        raise RlcError("its entries are compressed, encrypted, repeated or larger than the file")


def read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray[Any, Any]:
    """The array of the entry `name`, to its last byte, so that its CRC is checked; RlcError if its size is another."""
    with archive.open(name) as entry:
        np.lib.format.read_magic(entry)
        shape, _, dtype = np.lib.format.read_array_header_1_0(entry)
        claimed = entry.tell() + math.prod(shape) * dtype.itemsize
    if not dtype.hasobject and claimed != archive.getinfo(name).file_size:
        raise RlcError(f"the array {name} has another size than its header says")
    with archive.open(name) as entry:
        array: np.ndarray[Any, Any] = np.lib.format.read_array(entry, allow_pickle=False)
        entry.read()
    return array
