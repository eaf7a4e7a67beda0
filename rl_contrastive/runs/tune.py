"""The search: Optuna draws settings, trials are ordinary runs, and a killed tuning continues from a ledger.

    <out>/tune.json                             the file's values, the settings, and the results of each finished rung
    <out>/trials/trial-0003/<label>--<env>/seed-n   the runs of a trial; a rung raises their cap
    <out>/best/<label>--<env>/seed-n            the best setting on the reporting seeds

Setting n depends on the seed and on n alone. Trials are dropped at the end of a rung, in the order of their numbers, so
neither the engine nor the number of workers changes a decision. The ledger is replaced as a whole after each rung.
Optuna's own journal is not used: after a kill in the middle of a line and another append it cannot be read.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rl_contrastive.config import require, to_dict
from rl_contrastive.errors import RlcError, unknown_name
from rl_contrastive.runs.engines import Engine
from rl_contrastive.runs.extend import extend, longer
from rl_contrastive.runs.folder import RunFolder, read_json, write_json
from rl_contrastive.runs.run import read_summary, run_folder
from rl_contrastive.runs.sweep import plan_jobs
from rl_contrastive.runs.tune_file import TuneConfig, Tuning
from rl_contrastive.runs.workers import Job, Outcome

LEDGER = "tune.json"
Params = dict[str, Any]


class Stopped(Exception):  # noqa: N818 - not an error
    """Ctrl-C, or bad input of a run: the outcomes say which."""

    def __init__(self, outcomes: list[Outcome]) -> None:
        super().__init__("stopped")
        self.outcomes = outcomes


@dataclass
class Ledger:
    """The contents of tune.json."""

    spec: dict[str, Any]
    """The values that determine the search: everything in the file except the reporting seeds."""
    trials: list[Params]
    """Setting of each trial."""
    rungs: list[dict[str, Any]] = field(default_factory=list)
    """For each finished rung: its cap, {trial: value, None where a run failed}, and the trials kept."""

    def write(self, out: Path) -> None:
        """Replace the file, whole or not at all."""
        write_json(out / LEDGER, {"spec": self.spec, "trials": self.trials, "rungs": self.rungs})


@dataclass(frozen=True)
class Found:
    """How the search ended."""

    trial: int
    params: Params
    value: float
    """Mean of the metric over the tuning seeds. It is biased by the choice; report the other seeds instead."""


def require_optuna() -> None:
    """One sentence where Optuna is missing."""
    found = importlib.util.find_spec("optuna") is not None
    require(found, "rlc tune needs the package optuna: pip install -e '.[tune]'.")


def draw(tune: TuneConfig, number: int) -> Params:
    """Setting `number`, by Optuna's random sampler with a seed of its own."""
    import optuna

    distributions: dict[str, Any] = {}
    for key, value in tune.ranges.items():
        [(kind, ends)] = value.items()
        if kind == "choice":  # by index, because a choice may be a list
            distributions[key] = optuna.distributions.IntDistribution(0, len(ends) - 1)
        elif kind == "int":
            distributions[key] = optuna.distributions.IntDistribution(*ends)
        else:
            distributions[key] = optuna.distributions.FloatDistribution(*map(float, ends), log=kind == "loguniform")
    seed = int(np.random.SeedSequence([tune.seed, number]).generate_state(1)[0])
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    params: Params = study.ask(distributions).params
    return {k: tune.ranges[k]["choice"][v] if "choice" in tune.ranges[k] else v for k, v in params.items()}


def open_ledger(tuning: Tuning, out: Path, *, overwrite: bool = False) -> Ledger:
    """The ledger of `out`, a new one if there is none; RlcError where it is of another tuning."""
    tune = {key: value for key, value in to_dict(tuning.tune).items() if key != "report_seeds"}
    spec = {"tune": tune, "run": tuning.run}
    found = None if overwrite or not (out / LEDGER).exists() else _read(out / LEDGER)
    if found is None or not (found.rungs or found.spec == spec):
        ledger = Ledger(spec, [draw(tuning.tune, number) for number in range(tuning.tune.trials)])
        if found is not None:  # before anything was decided, the metric and the seeds may still change
            _require_same(found.trials == ledger.trials and found.spec["run"] == tuning.run, tuning, out)
        for params in ledger.trials:
            tuning.configs(
                params, tuning.tune.tune_seeds, tuning.caps[0]
            )  # an impossible setting is told before any run
        out.mkdir(parents=True, exist_ok=True)
        ledger.write(out)
        return ledger
    _require_same(found.spec == spec, tuning, out)
    return found


def _read(path: Path) -> Ledger:
    values = read_json(path)
    good = values.keys() == {"spec", "trials", "rungs"} and isinstance(values["spec"], dict)
    require(good and {"tune", "run"} <= values["spec"].keys(), f"{path} is no ledger of `rlc tune`.")
    return Ledger(**values)


def _require_same(same: bool, tuning: Tuning, out: Path) -> None:
    require(
        same, f"{out} holds a tuning of other values than {tuning.where}: choose another --out, or use --overwrite."
    )


def search(tuning: Tuning, out: Path, engine: Engine, *, overwrite: bool = False, command: str = "") -> Found:
    """All rungs, those in the ledger from there; the best trial of the last one."""
    ledger = open_ledger(tuning, out, overwrite=overwrite)
    keep = keeper(tuning.tune)
    alive = list(range(len(ledger.trials)))
    values: dict[int, float | None] = {}
    for rung, cap in enumerate(tuning.caps):
        if rung == len(ledger.rungs):
            folders = _play(tuning, ledger, out, engine, alive, rung, overwrite and rung == 0, command)
            measured = {str(n): measure(tuning.tune, folders[n]) for n in alive}
            last = cap == tuning.caps[-1]
            kept = alive if last else keep(rung, {n: measured[str(n)] for n in alive})
            ledger.rungs.append({"cap": cap, "values": measured, "kept": kept})
            ledger.write(out)
        elif cap != tuning.caps[-1]:
            keep(rung, {int(n): v for n, v in ledger.rungs[rung]["values"].items()})  # what was decided is its state
        values = {int(n): v for n, v in ledger.rungs[rung]["values"].items()}
        alive = ledger.rungs[rung]["kept"]
    good = [n for n in alive if values[n] is not None]
    require(len(good) > 0, f"every trial of {out} has a run that failed: see their summary.json.")
    best = good_first(tuning.tune, values)[0]
    return Found(best, ledger.trials[best], float(values[best] or 0.0))


def good_first(tune: TuneConfig, values: dict[int, float | None]) -> list[int]:
    """Trials without a failed run, the best first; the earlier one of two equals."""
    sign = -1.0 if tune.direction == "maximize" else 1.0
    return sorted((n for n, v in values.items() if v is not None), key=lambda n: (sign * (values[n] or 0.0), n))


def keeper(tune: TuneConfig) -> Callable[[int, dict[int, float | None]], list[int]]:
    """keep(rung, {trial: value}) -> the trials that go on, called once for each rung in order."""
    if tune.method != "asha":
        return lambda rung, values: sorted(good_first(tune, values)[: max(1, math.ceil(len(values) / tune.reduction))])
    import optuna

    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=tune.reduction)
    study = optuna.create_study(direction=tune.direction, pruner=pruner)
    asked = [study.ask() for _ in range(tune.trials)]

    def keep(rung: int, values: dict[int, float | None]) -> list[int]:
        kept = []
        for n in sorted(values):
            value = values[n]
            if value is None:
                study.tell(asked[n], state=optuna.trial.TrialState.FAIL)
                continue
            asked[n].report(value, tune.reduction**rung)
            if asked[n].should_prune():
                study.tell(asked[n], state=optuna.trial.TrialState.PRUNED)
            else:
                kept.append(n)
        return kept

    return keep


def _play(
    tuning: Tuning,
    ledger: Ledger,
    out: Path,
    engine: Engine,
    alive: Sequence[int],
    rung: int,
    overwrite: bool,
    command: str,
) -> dict[int, list[Path]]:
    """Bring the runs of the trials to the rung's cap; {trial: its run folders}. Stopped if that was not reached."""
    jobs: list[Job] = []
    folders: dict[int, list[Path]] = {}
    for n in alive:
        place = out / "trials" / f"trial-{n:04d}"
        configs = tuning.configs(ledger.trials[n], tuning.tune.tune_seeds, tuning.caps[rung])
        folders[n] = [run_folder(place, config) for config in configs]
        if rung == 0:
            needs = [tuning.needs] * len(configs)
            jobs += plan_jobs(configs, place, needs=needs, overwrite=overwrite, command=command)[0]
        else:
            jobs += [job for f in folders[n] for job in _raised(tuning, f, tuning.caps[rung], command)]
    _require_ended(engine.run(jobs))
    return folders


def _raised(tuning: Tuning, folder: Path, cap: int, command: str) -> list[Job]:
    """The job that takes a run of the rung before to `cap`; none where that is done."""
    config = longer(folder, **{tuning.unit: cap}, trust_imports=True)
    extend(folder, config, command)
    done = (read_summary(folder) or {}).get("status") == "finished"
    return [] if done else [Job(folder, config, trusted=True, needs=tuning.needs)]


def _require_ended(outcomes: list[Outcome]) -> None:
    """Stopped where a run was not begun, was interrupted, or was bad input. A failed run is a result."""
    if any(o.summary is None or o.summary["status"] == "aborted" for o in outcomes):
        raise Stopped(outcomes)


def measure(tune: TuneConfig, folders: Sequence[Path]) -> float | None:
    """Mean of the metric over runs; None where one of them failed or has no number."""
    values = [value_of(tune, folder) for folder in folders]
    numbers = [v for v in values if v is not None]
    return float(np.mean(numbers)) if len(numbers) == len(values) else None


def value_of(tune: TuneConfig, folder: Path) -> float | None:
    """The metric of one run."""
    if (read_summary(folder) or {}).get("status") != "finished":
        return None
    lines = RunFolder(folder).lines()
    if tune.metric not in lines[-1]:
        near = unknown_name("name in metrics.jsonl", tune.metric, lines[-1], first=f"{tune.metric}_mean")
        raise RlcError(f"tune.metric: {near}")
    chosen = lines if tune.over == "mean" else lines[-1:]
    found = [line[tune.metric] for line in chosen if line.get(tune.metric) is not None]
    return float(np.mean(found)) if len(found) == len(chosen) else None


def report(
    tuning: Tuning, found: Found, out: Path, engine: Engine, *, overwrite: bool = False, command: str = ""
) -> dict[int, float | None]:
    """The best setting on the reporting seeds: {seed: metric, None where the run failed}."""
    configs = tuning.configs(found.params, tuning.tune.report_seeds)
    place, needs = out / "best", [tuning.needs] * len(configs)
    jobs, _ = plan_jobs(configs, place, needs=needs, overwrite=overwrite, command=command)
    _require_ended(engine.run(jobs))
    return {config.seed: value_of(tuning.tune, run_folder(place, config)) for config in configs}
