"""MovieLens-100k out of the files of the installed distribution `recbole`, which are read and never imported."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import numpy as np

from rl_contrastive.config import require
from rl_contrastive.spec import IntArray

FILE = "recbole/dataset_example/ml-100k/ml-100k.inter"
HEAD = "user_id:token\titem_id:token\trating:float\ttimestamp:float"
HOW = "MovieLens-100k lies in a package of 2 MB: pip install --no-deps recbole==1.2.1 (nothing of it is imported)."


def path() -> Path | None:
    """The file of ratings, None where the package is not installed."""
    try:
        files = metadata.files("recbole") or []
    except metadata.PackageNotFoundError:
        return None
    found = [Path(str(file.locate())) for file in files if file.as_posix() == FILE]
    return found[0] if found and found[0].is_file() else None


def edges(file: Path | None = None) -> IntArray:
    """(n, 2) user and item of each rating, both numbered from 0 in the order of their ids; RlcError where absent."""
    file = file or path()
    require(file is not None, f"movielens: {HOW}")
    assert file is not None
    head, _, body = file.read_text(encoding="utf-8").partition("\n")
    require(head.strip() == HEAD, f"movielens: {file.name} has other columns than expected.")
    ids = np.array([line.split("\t")[:2] for line in body.splitlines()], dtype=np.int64)
    return np.stack([np.unique(column, return_inverse=True)[1] for column in ids.T], axis=1)
