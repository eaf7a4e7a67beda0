"""Sends a run folder between machines without a shared disk: as the bytes of one zip, without its lock.

The received folder is written beside the old one, synced, and renamed to replace it. A kill at any moment
leaves the old folder, or the new one, or (between the two renames) none, and then the sweep starts the run again.
"""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from pathlib import Path, PurePosixPath

from rl_contrastive.config import require
from rl_contrastive.errors import RlcError
from rl_contrastive.files import check_stored, sync_folder
from rl_contrastive.runs.folder import CONFIG, LOCK, METRICS, REPLACED, RunFolder


def pack(folder: Path) -> bytes:
    """All files of the run in a folder that nobody writes in, uncompressed; RlcError where one cannot be read. Files of
    a run that waits to be replaced stay here."""
    out = io.BytesIO()
    try:
        with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(folder.rglob("*")):
                name = path.relative_to(folder)
                left_out = path.name == LOCK or path.suffix == ".part" or name.parts[0].endswith(REPLACED)
                if path.is_file() and not left_out:
                    archive.writestr(zipfile.ZipInfo(name.as_posix()), path.read_bytes())
    except OSError as error:
        raise RlcError(f"cannot read the run folder {folder}: {error.strerror}.") from error
    return out.getvalue()


def unpack(parcel: bytes, folder: Path) -> None:
    """Make `folder` a copy of the packed one; RlcError, and no change, if it holds another run by now."""
    new, old = (folder.with_name(f".{folder.name}.{word}") for word in ("arriving", "replaced"))
    held = RunFolder(folder)
    try:
        for left in (new, old):  # of a process that was killed here
            shutil.rmtree(left, ignore_errors=True)
        _write(parcel, new)
        (new / LOCK).touch()
        folder.mkdir(exist_ok=True)  # on a node there is none before
        held.lock()
        try:
            mine, theirs = (path.read_bytes() if path.exists() else b"" for path in (folder / CONFIG, new / CONFIG))
            require(mine in (b"", theirs), f"{folder} was changed while its run was elsewhere; that result is dropped.")
            os.rename(folder, old)
            os.rename(new, folder)
            sync_folder(folder.parent)
        finally:
            held.unlock()
    except OSError as error:
        raise RlcError(f"cannot write the run folder {folder}: {error.strerror}.") from error
    finally:
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)


def further(parcel: bytes, folder: Path) -> bool:
    """Whether `folder` holds the same run as the parcel, and at least as many of its evaluations."""
    with zipfile.ZipFile(io.BytesIO(parcel)) as archive:
        sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        config = archive.read(CONFIG)
    here, metrics = folder / CONFIG, folder / METRICS
    same = here.is_file() and here.read_bytes() == config
    return same and (metrics.stat().st_size if metrics.exists() else 0) >= sizes.get(METRICS, 0)


def _write(parcel: bytes, folder: Path) -> None:
    """The files of a parcel, durable. Names that lead out of the folder are refused."""
    with zipfile.ZipFile(io.BytesIO(parcel)) as archive:
        check_stored(archive, len(parcel))
        folder.mkdir(parents=True)
        made = {folder}
        for entry in archive.infolist():
            name = PurePosixPath(entry.filename)
            require(not name.is_absolute() and ".." not in name.parts, f"a parcel names the file {entry.filename!r}.")
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            made |= {parent for parent in path.parents if parent.is_relative_to(folder)}
            with open(path, "wb") as file:
                file.write(archive.read(entry))
                file.flush()
                os.fsync(file.fileno())
    for place in made:
        sync_folder(place)
