"""A corpus that is always at hand: the docstrings of Python's standard library, as numbered words."""

from __future__ import annotations

import ast
import re
import sysconfig
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from rl_contrastive.spec import IntArray

UNKNOWN = 0
"""The number of all words beyond the vocabulary; it is never written."""


@cache
def docstrings() -> tuple[tuple[str, ...], ...]:
    """Lower-case words, commas and full stops of each docstring of the standard library's own modules, by file."""
    found = []
    for file in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        try:
            tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                words = re.findall(r"[a-z]+|[.,]", (ast.get_docstring(node) or "").lower())
                found += [tuple(words)] if words else []
    return tuple(found)


@dataclass(frozen=True)
class Corpus:
    """Words as numbers, in one line each."""

    train: IntArray
    held: IntArray
    names: tuple[str, ...]


def corpus(words: int, *, rng: np.random.Generator) -> Corpus:
    """A tenth of the docstrings is held out; the vocabulary is of all."""
    texts = docstrings()
    count = Counter(word for text in texts for word in text)
    names = ("?", *(word for word, _ in count.most_common(words - 1)))
    number = {name: i for i, name in enumerate(names)}
    order = rng.permutation(len(texts))
    lines = [np.array([number.get(word, UNKNOWN) for word in texts[i]], dtype=np.int64) for i in order]
    cut = len(lines) // 10
    return Corpus(np.concatenate(lines[cut:]), np.concatenate(lines[:cut]), names)
