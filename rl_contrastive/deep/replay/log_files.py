"""Array files that are written whole or not at all, and are checked against a checksum when read."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.errors import RlcError
from rl_contrastive.files import check_stored, durably, read_array
from rl_contrastive.spec import Array


def write_arrays(path: Path, arrays: dict[str, Array]) -> int:
    """One uncompressed zip of .npy arrays with a fixed date; returns the checksum of its contents."""

    def write(file: IO[bytes]) -> int:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            for name, array in arrays.items():
                with archive.open(zipfile.ZipInfo(name + ".npy"), "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.asarray(array, order="C"), (1, 0), allow_pickle=False)
            return contents(archive)

    return durably(path, write)


def read_arrays(path: Path, names: Sequence[str], checksum: int) -> dict[str, Array]:
    """The arrays of a file; any fault (of another save, truncated, a pickle) is an RlcError."""
    arrays: dict[str, Array] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            check_stored(archive, path.stat().st_size)
            require(contents(archive) == checksum, "it is not the file that the checkpoint was saved with")
            for name in names:
                arrays[name] = read_array(archive, name + ".npy")
    except OSError as error:
        raise RlcError(f"replay log: cannot read {path}: {error.strerror or error}.") from error
    except Exception as error:  # damaged bytes raise nearly anything, as in `runs.checkpoint.read_state`
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise RlcError(f"replay log: {path} is corrupt or no part of a log: {reason}.") from error
    return arrays


def contents(archive: zipfile.ZipFile) -> int:
    """CRC-32 of the entries' own CRC-32 (which zipfile verifies when an entry is read to its end)."""
    return zlib.crc32(b"".join(info.CRC.to_bytes(4, "little") for info in archive.infolist()))
