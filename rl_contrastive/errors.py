"""The one error type of the library: a sentence that says what is wrong, where, and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST_NAMES = 40
"""Of more names than these only the closest are listed."""


class RlcError(ValueError):
    """Bad input of a user: the command line prints the sentence alone and exits with code 2."""


def unknown_name(kind: str, name: str, allowed: Iterable[str], *, first: str = "") -> RlcError:
    """`unknown agent 'contrastive-ubc'; did you mean 'contrastive-ucb'? Allowed: ...`. first: what is suggested where
    it is allowed, however close others are."""
    names = sorted(allowed)
    close = [first] if first in names else difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean '{close[0]}'?" if close else "."
    if len(names) > MOST_NAMES:
        near = difflib.get_close_matches(name, names, n=5, cutoff=0.0)
        return RlcError(f"unknown {kind} '{name}'{hint} {len(names)} are allowed, such as {', '.join(near)}.")
    return RlcError(f"unknown {kind} '{name}'{hint} Allowed: {', '.join(names) or 'none'}.")
