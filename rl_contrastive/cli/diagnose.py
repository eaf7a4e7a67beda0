"""`rlc diagnose RUN`: how the features of a run are spread, as a table and a picture."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rl_contrastive.cli.parse import Done, flags_of, parse
from rl_contrastive.config import Ge, Gt, In


@dataclass(frozen=True)
class DiagnoseCommand:
    """Measure and draw the features of a run: uniformity, tolerance, alignment, isotropy, ranks, hard negatives."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """A run's folder with a checkpoint."""
    out: Path | None = None
    """Folder for table.md, diagnose.json and embedding.png; default: RUN/diagnose."""
    episodes: Annotated[int, Ge(1)] = 100
    """Episodes played."""
    epsilon: Annotated[float, In(0, 1)] = 0.1
    """Share of uniform actions; 0: the policy alone, which may show one path only."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the episodes."""
    temperature: Annotated[float, Gt(0)] = 0.1
    """tau of the hardness share."""
    json: bool = False
    """Print the result as JSON."""
    trust_imports: bool = False
    """Run the Python files that the run folder names (--import of its run). Read them first where somebody else made
    the folder."""
    previous: bool = False
    """Where the last checkpoint is damaged, take the one before: an older agent."""


def diagnose(args: list[str]) -> int:
    """`rlc diagnose RUN [--out DIR]`."""
    try:
        parsed = parse(DiagnoseCommand, args, prog="rlc diagnose", flags=flags_of(DiagnoseCommand) - {"--run"})
    except Done:
        return 0
    from rl_contrastive.analysis.diagnose import diagnose as measure

    out = parsed.out or parsed.run / "diagnose"
    names = ("episodes", "epsilon", "seed", "temperature", "trust_imports", "previous")
    result = measure(parsed.run, out, **{name: getattr(parsed, name) for name in names})
    if parsed.json:
        print(json.dumps(result, indent=2))
    else:
        print((out / "table.md").read_text(encoding="utf-8"))
        print(f"written: {out}")
    return 0
