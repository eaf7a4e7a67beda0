"""From a name to what makes a PettingZoo environment: `rps_v2`, or `module:attribute` for one's own."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

from rl_contrastive.config import require
from rl_contrastive.envs.adapters.gym_adapter import one_line
from rl_contrastive.errors import RlcError

PACKAGES = ("pettingzoo.classic", "pettingzoo.butterfly", "pettingzoo.atari", "pettingzoo.sisl", "mpe2")
"""Where names without a colon are looked up, in this order."""


def find(id: str, prefix: str = "pettingzoo") -> Callable[..., Any]:
    """What makes the environment `id`; RlcError if there is nothing, or nothing parallel. prefix: as it was typed."""
    name = f"{prefix}:{id}"
    path, colon, attribute = id.partition(":")
    if not colon:
        path = next((f"{package}.{id}" for package in PACKAGES if _exists(f"{package}.{id}")), "")
        if not path:
            have = f"{name}: PettingZoo has no environment '{id}' (names end in a version: rps_v2)"
            more = "" if _exists("mpe2") else "; those of mpe2 (simple_spread_v3) need pip install -e '.[games]'"
            raise RlcError(f"{have}{more}; your own is named as module:attribute.")
        attribute = "parallel_env"
    try:
        with warnings.catch_warnings():
            # PettingZoo announces a registry that its older releases do not have.
            warnings.simplefilter("ignore", DeprecationWarning)
            module = importlib.import_module(path)
    except ImportError as error:
        what = f"the package '{error.name}'" if error.name else one_line(error)
        raise RlcError(f"{name} needs {what}, which is missing: pip install -e '.[games]'.") from error
    except Exception as error:
        raise RlcError(f"{name}: importing {path} raised {one_line(error)}.") from error
    make = getattr(module, attribute, None)
    if make is None and not colon:
        raise RlcError(f"{name} has no parallel_env: its players move in turns; allowed are parallel environments.")
    require(callable(make), f"{name}: {path} has no callable '{attribute}'.")
    return make  # type: ignore[return-value] # checked above


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # the package above it is not installed
        return False
