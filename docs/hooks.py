"""What mkdocs fills in while it builds, so that it cannot go stale: option tables, algorithm boxes, files of the root.

    <!-- options agent ucbvi -->                                  its options, their defaults and docstrings
    <!-- algorithm rl_contrastive/agents/baselines/ucbvi.py -->   the docstring of the module
    <!-- include CHANGELOG.md -->                                 a file outside docs/, its links adapted

On a page that is read as plain Markdown these are comments.
"""

from __future__ import annotations

import ast
import dataclasses
import re
import typing
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MARK = re.compile(r"^<!-- (options|algorithm|include) (.+?) -->$", re.MULTILINE)
MOVED = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md", "runs/README.md": "run-folders.md"}
"""Files outside docs/ that have a page of their own."""


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """mkdocs calls this for every page."""
    depth = page.file.src_uri.count("/")
    return filled(markdown, depth) if not page.file.src_uri.endswith(".ipynb") else markdown


def filled(markdown: str, depth: int = 0) -> str:
    """The text of a page that lies `depth` folders below docs/, with all marks filled in."""
    whole = re.search(r"^<!-- include .+ -->$", markdown, re.MULTILINE)  # what else stands there is for other readers
    text = MARK.sub(lambda found: FILL[found[1]](found[2]), whole[0] if whole else markdown)
    for file, page in MOVED.items():
        text = text.replace(f"]({'../' * (depth + 1)}{file}", f"]({'../' * depth}{page}")
    # Other links that leave docs/ name files of the repository, which the site does not have.
    return re.sub(rf"\[([^\]]+)\]\((?:\.\./){{{depth + 1}}}[^)]*\)", r"\1", text)


def include(name: str) -> str:
    """A file of the root, as docs/ sees it."""
    text = (ROOT / name).read_text(encoding="utf-8")
    up = name.count("/")
    text = re.sub(rf"\]\((?:\.\./){{{up}}}docs/", "](", text)
    return re.sub(r"\]\((?!http|#|[\w-]+\.(?:md|ipynb)|results|agents|api)([^)]*)\)", r"](../\1)", text)


def algorithm(name: str) -> str:
    """The docstring of a module: its first line is the caption, indented lines are the algorithm."""
    text = ast.get_docstring(ast.parse((ROOT / name).read_text(encoding="utf-8"))) or ""
    first, _, rest = text.partition("\n")
    lines = [line if line.startswith("    ") else _plain(line) for line in rest.strip("\n").splitlines()]
    body = "\n".join(f"    {line}".rstrip() for line in lines)
    return f'!!! abstract "{first.strip()}"\n{body}'


def options(words: str) -> str:
    """The options of a registered name: a table, and one for each part of it."""
    from rl_contrastive import registry

    kind, name = words.split()
    entry, _ = registry.get(typing.cast("registry.Kind", kind), name)
    return "\n\n".join(_tables(entry.config(), f"--{kind}."))


def _tables(config: Any, prefix: str) -> list[str]:
    from rl_contrastive.config import field_docs

    docs = field_docs(type(config))
    rows, parts = [], []
    for field in dataclasses.fields(config):
        value, option = getattr(config, field.name), prefix + field.name.replace("_", "-")
        if dataclasses.is_dataclass(value):
            inner = "\n\n".join(_tables(value, option + "."))
            title = f'??? note "`{option}...`: {_first(docs.get(field.name, ""))}"'
            parts.append(title + "\n\n" + "\n".join(f"    {line}".rstrip() for line in inner.splitlines()))
        else:
            rows.append(f"| `{option}` | `{_shown(value)}` | {_cell(docs.get(field.name, ''))} |")
    table = "\n".join(["| option | default | |", "|---|---|---|", *rows])
    return ([table] if rows else []) + parts


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    text = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text or "()"


def _first(text: str) -> str:
    return re.split(r"(?<=[.:;]) ", " ".join(text.split()))[0].replace('"', "'").rstrip(".:;")


def _cell(text: str) -> str:
    """A docstring as a table cell: its paragraphs in one line, signs of Markdown kept as they are."""
    return _plain(" ".join(text.split()))


def _plain(text: str) -> str:
    parts = text.split("`")
    for i in range(0, len(parts), 2):  # outside of code
        parts[i] = re.sub(r"([*_\[\]])", r"\\\1", parts[i]).replace("<", "&lt;").replace("|", "&#124;")
    for i in range(1, len(parts), 2):
        parts[i] = parts[i].replace("|", "\\|")
    return "`".join(parts)


FILL = {"options": options, "algorithm": algorithm, "include": include}
