"""From a TOML file to a tuning: one run, the values that may vary, and separate seeds for tuning and reporting.

    name = "lock-bonus"                   # the file's name by default
    [run]                                 # keys of a sweep's [[run]], one value each and no seeds
    agent = "contrastive-ucb"
    env = "combination-lock"
    episodes = 900
    [tune]
    trials = 12
    method = "halving"                    # random | halving | asha
    rungs = [100, 300]                    # caps at which trials are dropped, before the run's own
    metric = "return_mean"                # a name in metrics.jsonl
    tune_seeds = [100, 101]
    report_seeds = [0, 1, 2, 3, 4]
    [tune.ranges]
    "agent.gamma" = { loguniform = [0.01, 10.0] }
    "agent.batch" = { choice = [10, 50] }

Keys of [tune] are the fields of `TuneConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from rl_contrastive.config import Ge, Options, from_dict, load_toml, require
from rl_contrastive.errors import RlcError, unknown_name
from rl_contrastive.runs.run_config import RunConfig
from rl_contrastive.runs.sweep import expand, split_needs
from rl_contrastive.runs.workers import Needs

TOP = {"name", "imports", "run", "tune"}
KINDS = ("uniform", "loguniform", "int", "choice")


@dataclass(frozen=True)
class TuneConfig(Options, where="tune."):
    """How the best setting is searched for, and on which seeds it is reported."""

    ranges: dict[str, Any]
    """Key of the run -> { uniform = [low, high] }, { loguniform = [low, high] }, { int = [low, high] } (both ends
    included) or { choice = [...] }."""
    trials: Annotated[int, Ge(1)]
    """Number of settings that are tried."""
    tune_seeds: tuple[int, ...]
    """Seeds on which settings are compared."""
    report_seeds: tuple[int, ...]
    """Seeds on which the best setting is run at the end; none may be a tuning seed."""
    metric: str = "return_mean"
    """The metric to compare: a name in metrics.jsonl."""
    over: Literal["last", "mean"] = "last"
    """The metric at the last evaluation, or its mean over all evaluations (how fast a setting learns)."""
    direction: Literal["maximize", "minimize"] = "maximize"
    """Whether large or small values of the metric are better."""
    method: Literal["random", "halving", "asha"] = "random"
    """random: every trial has the whole budget; halving: the best 1 / reduction of each rung go on; asha: Optuna's
    SuccessiveHalvingPruner, which judges each trial against the ones before it."""
    rungs: tuple[int, ...] = ()
    """Caps at which trials are dropped, rising and below the run's own (halving and asha need one at least)."""
    reduction: Annotated[int, Ge(2)] = 3
    """eta, the factor by which the trials become fewer at each rung."""
    seed: Annotated[int, Ge(0)] = 0
    """Seed of the settings that are drawn."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tune_seeds", "report_seeds", "ranges"):
            require(len(getattr(self, name)) > 0, f"tune.{name} is empty: give at least one.")
        both = sorted(set(self.tune_seeds) & set(self.report_seeds))
        words = ", ".join(map(str, both))
        require(not both, f"tune: seeds {words} are among both tune_seeds and report_seeds, which must be apart.")
        rising = all(a < b for a, b in zip((0, *self.rungs), self.rungs, strict=False))
        require(rising, f"tune.rungs must be >= 1 and rise, got {list(self.rungs)}.")
        wanted = self.method != "random"
        require(
            wanted == bool(self.rungs), f"tune.rungs: {'give one at least' if wanted else 'none'} for {self.method}."
        )
        for key, value in self.ranges.items():
            _check_range(key, value)


def _check_range(key: str, value: Any) -> None:
    shape = isinstance(value, dict) and len(value) == 1 and isinstance(next(iter(value.values())), list)
    allowed = f"tune.ranges: {key} must be one of {', '.join('{ ' + kind + ' = [...] }' for kind in KINDS)}"
    require(shape and next(iter(value)) in KINDS, f"{allowed}, got {value!r}.")
    [(kind, values)] = value.items()
    if kind == "choice":
        require(len(values) > 0, f"tune.ranges: {key} has no choices.")
        return
    types = (int,) if kind == "int" else (int, float)
    numbers = len(values) == 2 and all(type(v) in types for v in values)
    require(numbers, f"tune.ranges: {key} needs two {'whole ' if kind == 'int' else ''}numbers, got {values!r}.")
    require(values[0] < values[1], f"tune.ranges: {key} must have low < high, got {values!r}.")
    require(kind != "loguniform" or values[0] > 0, f"tune.ranges: {key} needs low > 0, got {values!r}.")


@dataclass(frozen=True)
class Tuning:
    """One file, checked."""

    name: str
    tune: TuneConfig
    run: dict[str, Any]
    """The [run] table, without what it asks of a cluster."""
    needs: Needs
    imports: tuple[str, ...]
    where: str
    """The file, for sentences."""
    caps: tuple[int, ...] = field(default=())
    """The rungs and the run's own cap."""
    unit: str = "episodes"
    """What the caps count."""

    def configs(self, params: dict[str, Any], seeds: tuple[int, ...], cap: int | None = None) -> list[RunConfig]:
        """The runs of one setting, one a seed, with the evaluations of the whole run also where the cap is lower."""
        values = {**self.run, **{k: [v] if isinstance(v, list) else v for k, v in params.items()}}
        entry = {**values, "imports": self.imports, "group": self.name, "seeds": list(seeds)}
        whole = expand(entry, self.where)
        require(
            len(whole) == len(seeds), f"{self.where}: a list in [run] makes several runs; put it under tune.ranges."
        )
        if cap is None or cap == self.caps[-1]:
            return whole
        budget = whole[0].budget
        every = "eval_every" if budget.evaluation_clock == "episodes" else "eval_every_steps"
        interval = budget.interval(int(whole[0].agent_config["batch"]))
        return expand({**entry, self.unit: cap, every: interval}, self.where)


def load_tuning(path: Path, imports: tuple[str, ...] = ()) -> Tuning:
    """Read a tuning file; RlcError on unknown keys, impossible values, or seeds that are used twice."""
    table, where = load_toml(path), str(path)
    for key in table:
        if key not in TOP:
            raise unknown_name(f"key of the tuning file {path}", key, TOP)
    for key in ("run", "tune"):
        require(isinstance(table.get(key), dict), f"{where}: a tuning needs a [{key}] table.")
    files, name = table.get("imports", []), table.get("name", path.stem)
    require(isinstance(files, list) and all(isinstance(f, str) for f in files), f"{where}: imports must be file names.")
    require(isinstance(name, str), f"{where}: name must be a text, got {name!r}.")
    require("seeds" not in table["run"], f"{where}: seeds of [run] stand under [tune]: tune_seeds and report_seeds.")
    missing = [key for key in ("ranges", "trials", "tune_seeds", "report_seeds") if key not in table["tune"]]
    require(not missing, f"{where}: [tune] needs {', '.join(missing)}.")
    tune = from_dict(TuneConfig, table["tune"], "tune.")
    needs, run = split_needs(table["run"], where)
    for key in tune.ranges:
        require(key not in run, f"{where}: {key} stands both in [run] and in tune.ranges.")
    own = tuple(str((path.parent / file).resolve()) for file in files)
    unit = "steps" if "steps" in run else "episodes"
    cap = run.get(unit)
    if not isinstance(cap, int):
        raise RlcError(f"{where}: [run] needs episodes or steps, one whole number.")
    below = not tune.rungs or tune.rungs[-1] < cap
    require(below, f"{where}: tune.rungs must lie below the {cap} {unit} of the run, got {list(tune.rungs)}.")
    return Tuning(name, tune, run, needs, (*own, *imports), where, (*tune.rungs, cap), unit)
