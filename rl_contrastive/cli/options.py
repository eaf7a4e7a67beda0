"""Options that another one brings: `--agent.learner.objective meco` has `--agent.learner.objective-options.gamma`.

The words of the command line are read for the objective's name before there is a parser; its config, with the help
texts of its fields, then stands in the place of the table `objective_options`.
"""

from __future__ import annotations

import dataclasses
import itertools
import sys
from typing import Any

from rl_contrastive import registry
from rl_contrastive.cli.parse import Nothing
from rl_contrastive.config import from_dict, require

TABLE = "objective_options"


def with_options(config: Any, words: list[str], prefix: str) -> Any:
    """A default config of the flags `prefix`, in which each table of options is the config of its own objective."""
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value, flag = getattr(config, field.name), prefix + field.name.replace("_", "-")
        if field.name == TABLE:
            kinds: Any = getattr(config, "OBJECTIVES", ("objective",))
            changes[TABLE] = _options(kinds, getattr(config, "objective", ""), value, words, flag)
        elif dataclasses.is_dataclass(value):
            changes[field.name] = with_options(value, words, flag + ".")
    return dataclasses.replace(config, **changes)


def _options(
    kinds: tuple[registry.Kind, ...], default: str, values: dict[str, Any], words: list[str], flag: str
) -> Any:
    """The objective's config; no fields where neither the words nor the agent say anything, as torch loads slowly."""
    named = _last(words, flag.removesuffix("-options"))
    if named is None and not values and not any(_flag(word).startswith(flag) for word in words):
        return Nothing()
    name = named or default
    entry, fixed = registry.get(registry.kind_of(kinds, name), name)
    kept = values if named in (None, default) else {}
    return from_dict(entry.config, {**kept, **fixed}, flag.removeprefix("--") + ".")


def require_used(config: Any, words: list[str], flag: str = "--agent.learner.objective") -> None:
    """RlcError where the words choose an objective, but the learner's closed form descends none.

    Only words are looked at: run folders and sweep files that hold such a choice go on as before.
    """
    learner: Any = getattr(config, "learner", None)
    if getattr(learner, "method", None) != "spectral":
        return
    asked = [_flag(word) for word in words]
    said = [word for word in asked if word.startswith(f"{flag}-options.")]
    if flag in asked and learner.objective != type(learner)().objective:
        said.insert(0, flag)
    hint = "has no effect with --agent.learner.method spectral; add --agent.learner.method nce or spectral+nce"
    require(not said, f"{''.join(said[:1])} {hint}.")


def _flag(word: str) -> str:
    return word.partition("=")[0].replace("_", "-")


def _last(words: list[str], flag: str) -> str | None:
    """The value that `words` give to an option, `--flag value` or `--flag=value`; None where they do not."""
    found = None
    for word, after in itertools.pairwise([*words, ""]):
        if _flag(word) == flag:
            found = word.partition("=")[2] or after
    return found or None


def in_new_form(words: list[str]) -> list[str]:
    """The words with `--X.objective-options NAME VALUE ...` as `--X.objective-options.NAME VALUE ...`, and a notice."""
    out: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        flag = word.replace("_", "-")
        if not flag.endswith("." + TABLE.replace("_", "-")):
            out.append(word)
            continue
        old = list(itertools.takewhile(lambda word: not word.startswith("--"), rest))
        require(len(old) % 2 == 0, f"{flag} takes names with values; write {flag}.NAME VALUE for each.")
        new = [f"{flag}.{word}" if k % 2 == 0 else word for k, word in enumerate(old)]
        print(f"rlc: {flag} {' '.join(old)} is written {' '.join(new)} now.", file=sys.stderr)
        out, rest = out + new, rest[len(old) :]
    return out
