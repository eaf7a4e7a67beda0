"""`rlc diagnose`: what a run's features look like when its policy plays, as one table and one picture.

phi of the pairs (s,a) and psi of the successors s' are looked at apart, in each feature space: a step, where features
are fitted by step. "all" is the mean over the spaces, weighted by their rows. docs/diagnose.md says what each number
means; the formulas are in `features/embedding.py`.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rl_contrastive.analysis.embedding_plot import picture
from rl_contrastive.analysis.plots import save, style
from rl_contrastive.analysis.tables import Table, number
from rl_contrastive.analysis.watched import Watched, watch
from rl_contrastive.config import require
from rl_contrastive.errors import RlcError
from rl_contrastive.features.embedded import describe_spaces
from rl_contrastive.features.embedding import mean_of
from rl_contrastive.files import write_text
from rl_contrastive.runs.load import load_trained
from rl_contrastive.spec import IntArray

COLUMNS = {
    "rows": "rows",
    "uniformity": "uniformity",
    "tolerance": "tolerance",
    "alignment": "alignment",
    "isotropy": "isotropy",
    "rank": "rank",
    "rank_centred": "rank, centred",
    "hardness": "hardness",
    "zero": "zero",
}
"""Name of a number -> heading of its column."""
MOST_SPACES = 10
"""Steps that the table shows; diagnose.json has all."""
MOST_ROWS = 2000
"""Rows of a feature space whose pairs are compared."""
Numbers = dict[str, dict[str, float]]
"""Feature space, or "all" -> its numbers."""


def diagnose(
    path: Path,
    out: Path,
    *,
    episodes: int = 100,
    epsilon: float = 0.1,
    seed: int = 0,
    temperature: float = 0.1,
    trust_imports: bool = False,
    previous: bool = False,
) -> dict[str, Any]:
    """Play, measure, and write table.md, diagnose.json, embedding.png and embedding.svg to `out`."""
    require(episodes >= 1, f"diagnose: episodes must be >= 1, got {episodes}.")
    require(seed >= 0, f"diagnose: seed must be >= 0, got {seed}.")
    require(0.0 <= epsilon <= 1.0, f"diagnose: epsilon must lie in [0, 1], got {epsilon}.")
    require(temperature > 0, f"diagnose: temperature must be > 0, got {temperature}.")
    run = load_trained(path, trust_imports=trust_imports, previous=previous, unfinished=True)
    seen, kind = watch(run, episodes=episodes, epsilon=epsilon, seed=seed)
    phi, psi = measure(seen, kind, temperature, stationary=run.spec.stationary)
    settings = {"episodes": episodes, "epsilon": epsilon, "seed": seed, "temperature": temperature}
    title = f"Features of {run.label} on {run.config.shown_env}, seed {run.config.seed}"
    note = f"d = {seen.phi.shape[1]}; {episodes} episodes of the policy with {epsilon:g} uniform actions; "
    note += f"hardness at temperature {temperature:g}; latents: {kind or 'not known'}"
    table = tabulate(title, note, phi, psi)
    result = {"run": str(path), **settings, "latents": kind, "phi": phi, "psi": psi, "table": asdict(table)}
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "table.md", "\n".join([f"# {title}", "", *table.markdown(), "", note, ""]))
        write_text(out / "diagnose.json", json.dumps(result, indent=2, allow_nan=False) + "\n")
        with style():
            save(picture(seen, kind, title), out / "embedding")
    except OSError as error:
        raise RlcError(f"diagnose: cannot write to {out}: {error.strerror}.") from error
    return result


def measure(seen: Watched, kind: str, temperature: float, *, stationary: bool = True) -> tuple[Numbers, Numbers]:
    """The numbers of phi and of psi, by feature space and of all. Unless `stationary`, a latent of another step is
    another latent."""
    some = seen.take(np.concatenate([_evenly(np.flatnonzero(seen.level == k)) for k in np.unique(seen.level)]))
    step = 0 * some.step if stationary else some.step
    latents = (_numbered(some.alike, step), _numbered(some.next_latent, step)) if kind else None
    spaces = describe_spaces(some.embedded, latents, temperature=temperature)
    phi, psi = ({str(space): both[side] for space, both in spaces.items()} for side in (0, 1))
    return {"all": mean_of(list(phi.values())), **phi}, {"all": mean_of(list(psi.values())), **psi}


def tabulate(title: str, note: str, phi: Numbers, psi: Numbers) -> Table:
    """A line for phi and for psi of all spaces, and of some of them where there are several."""
    spaces = [space for space in phi if space != "all"]
    shown = [spaces[i] for i in _evenly(np.arange(len(spaces)), MOST_SPACES)] if len(spaces) > 1 else []
    present = [name for name in COLUMNS if name in phi["all"] or name in psi["all"]]
    rows = [
        (name, space, *(_cell(of[space], column) for column in present))
        for name, of in (("phi(s,a)", phi), ("psi(s')", psi))
        for space in ("all", *shown)
    ]
    return Table(title, ("features", "step", *(COLUMNS[name] for name in present)), rows, note, text_columns=2)


def _numbered(latent: IntArray, step: IntArray) -> IntArray:
    """One number for each latent of each step."""
    return np.unique(np.stack([latent, step], axis=1), axis=0, return_inverse=True)[1].reshape(-1)


def _cell(numbers: dict[str, float], name: str) -> str:
    return number(round(numbers[name], 4)) if name in numbers else "–"


def _evenly(rows: Any, most: int = MOST_ROWS) -> Any:
    return rows if len(rows) <= most else rows[np.linspace(0, len(rows) - 1, most).astype(np.int64)]
