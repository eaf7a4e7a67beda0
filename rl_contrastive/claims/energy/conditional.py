"""Low-rank conditional laws p(s'|s,a): what moving averages of Z buy, one for each context or one d-vector for all.

Three parts, each a grid of its own: all methods on random low-rank MDPs (tuned); one noise draw shared by the whole
batch, taken apart (fixed options); contexts from a continuum, where no table can help. TV is to the true law, over
the (s,a) in the data. With f = log <psi(s'), phi(s,a)>, q e^f is a law only after division by Z(s,a) = <E_q psi, phi>:
NCE learns f so that Z = 1, MECO carries Z along, InfoNCE and likelihood leave it free; the study shows all of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rl_contrastive.claims.base import Context, Report
from rl_contrastive.claims.energy.conditional_config import COUNTS, LEARNERS, ONE_DRAW, Cells, ConditionalConfig
from rl_contrastive.claims.energy.conditional_continuous import METHODS as CONTINUOUS
from rl_contrastive.claims.energy.conditional_continuous import ContinuousOptions, fit_continuous
from rl_contrastive.claims.energy.conditional_data import LAWS, Problems, Sizes, draw_problems, held_out_nll, mean_tv
from rl_contrastive.claims.energy.conditional_learners import (
    Descent,
    Fitted,
    Learner,
    fit_tables,
    table_law,
    z_from_draws,
)
from rl_contrastive.claims.energy.conditional_report import report
from rl_contrastive.claims.grid import Grid, run_grid
from rl_contrastive.claims.ledger import Choice, Task
from rl_contrastive.config import require
from rl_contrastive.device import resolve_device
from rl_contrastive.registry import register


@register("claim", "energy/conditional", ConditionalConfig)
def conditional(config: ConditionalConfig, context: Context) -> Report:
    """Low-rank conditional densities: MECO for each (s,a) and as one d-vector against likelihood, NCE, InfoNCE."""
    return report(config, measure(config, context), context)


def measure(config: ConditionalConfig, context: Context) -> Cells:
    """All fits of the three parts."""
    return Cells(
        run_grid(fit_main, config, main_grid(config), context.part("tables")),
        run_grid(fit_one_draw, config, one_draw_grid(config), context.part("one-draw")),
        run_grid(fit_on_continuum, config, continuum_grid(config), context.part("continuous")),
    )


def main_grid(config: ConditionalConfig) -> Grid:
    """All learners in all settings, tuned, all seeds of a fit side by side."""
    methods: dict[str, list[Choice]] = {COUNTS: [{}]}
    methods |= {name: candidates(learner, config) for name, learner in LEARNERS.items()}
    return Grid(config.settings, methods, "held_nll", config.tune_seeds, config.seeds, together=True)


def one_draw_grid(config: ConditionalConfig) -> Grid:
    """The variants with one shared draw, in the central setting, with fixed options."""
    methods = {name: [options] for name, (_, options) in ONE_DRAW.items()}
    return Grid([config.central], methods, "held_nll", (), config.seeds, together=True)


def continuum_grid(config: ConditionalConfig) -> Grid:
    """Networks on continuous contexts, two steps of Adam to choose from."""
    methods: dict[str, list[Choice]] = {name: [{"lr": lr} for lr in config.continuous_lrs] for name in CONTINUOUS}
    return Grid(["continuous"], methods, "held_nll", config.tune_seeds, config.seeds)


def candidates(learner: Learner, config: ConditionalConfig) -> list[Choice]:
    """Three a method: steps where there is no gamma, steps and gamma for MECO, psi's step where it is averaged."""
    low, middle, high = config.lrs
    if learner.psi_steps == "averaged":
        return [{"lr": middle, "lr_psi": step} for step in (0.3, 1.0, 3.0)]
    if learner.kind in ("table", "one-u", "vector"):
        return [{"lr": low, "gamma": 0.1}, {"lr": middle, "gamma": 0.1}, {"lr": middle, "gamma": 0.5}]
    return [{"lr": low}, {"lr": middle}, {"lr": high}]


def fit_main(config: ConditionalConfig, task: Task) -> dict[str, Sequence[float]]:
    """A method on all seeds of a task at once."""
    problems = problems_of(config, task)
    if task.method == COUNTS:
        return {"tv": mean_tv(_counts_law(problems), problems).tolist()}
    options = Descent(**task.options, steps=config.steps, batch=config.batch)
    return judge(fit_tables(problems, task.seeds, LEARNERS[task.method], options), problems, config, task.seeds)


def fit_one_draw(config: ConditionalConfig, task: Task) -> dict[str, Sequence[float]]:
    """A variant of the d-vector form with one shared draw."""
    problems = problems_of(config, task)
    learner, options = ONE_DRAW[task.method]
    values: dict[str, Any] = dict(options)
    steps = config.steps * int(values.pop("longer", 1))
    fitted = fit_tables(problems, task.seeds, learner, Descent(**values, steps=steps, batch=config.batch))
    return {**judge(fitted, problems, config, task.seeds), **runaway(fitted, problems)}


def fit_on_continuum(config: ConditionalConfig, task: Task) -> dict[str, Sequence[float]]:
    """A method with networks on continuous contexts."""
    options = ContinuousOptions(
        transitions=config.continuous_size, rank=config.rank, steps=config.continuous_steps, **task.options
    )
    results = [fit_continuous(task.method, seed, options) for seed in task.seeds]
    return {name: [result[name] for result in results] for name in results[0]}


def problems_of(config: ConditionalConfig, task: Task) -> Problems:
    """The data of a task: they depend on its setting and seeds, not on its method."""
    law, _, size = task.setting.partition("-")
    require(law in LAWS and size.isdigit(), f"conditional: unknown setting {task.setting!r}, expected uniform-5000.")
    return draw_problems(
        task.seeds,
        Sizes(config.num_states, config.num_actions, config.rank),
        transitions=int(size),
        held_out=config.held_out,
        law=law,
        device=resolve_device(task.device),
    )


def judge(
    fitted: Fitted, problems: Problems, config: ConditionalConfig, seeds: tuple[int, ...]
) -> dict[str, Sequence[float]]:
    """tv renormalised exactly; tv_raw of q e^f as it stands; tv_own by the method's own Z; tv_draws by Z from draws."""
    q = problems.q
    P_hat = table_law(fitted, q)
    raw = table_law(fitted, q, torch.zeros_like(fitted.log_phi[..., 0]))
    drawn = table_law(fitted, q, z_from_draws(fitted, problems, config.draws, seeds=seeds))
    metrics = {
        "tv": mean_tv(P_hat, problems),
        "tv_raw": mean_tv(raw, problems),
        "tv_draws": mean_tv(drawn, problems),
        "held_nll": held_out_nll(P_hat, problems),
        "seconds": torch.full((len(seeds),), fitted.seconds / len(seeds)),
    }
    if fitted.log_z is not None:
        # A context that a table has not seen has no Z; it is not among the visited ones that are judged.
        known = torch.where(problems.visited & ~torch.isnan(fitted.log_z), fitted.log_z, _unseen(fitted, q))
        metrics["tv_own"] = mean_tv(table_law(fitted, q, known), problems)
    return {name: values.tolist() for name, values in metrics.items()}


def _unseen(fitted: Fitted, q: torch.Tensor) -> torch.Tensor:
    """(B, SA) exact log Z, for contexts that a minibatch never drew."""
    return torch.logsumexp(fitted.scores + q.log().unsqueeze(1), dim=-1)


def runaway(fitted: Fitted, problems: Problems) -> dict[str, Sequence[float]]:
    """The outcome whose mass exceeds the truth most: excess (mass, P-hat - P over contexts) and its q times S."""
    excess = table_law(fitted, problems.q).mean(1) - problems.P.mean(1)  # (B, S)
    worst = excess.argmax(-1, keepdim=True)  # (B, 1)
    share = problems.q.gather(1, worst).squeeze(-1) * problems.sizes.num_states
    return {"excess": excess.gather(1, worst).squeeze(-1).tolist(), "excess_share": share.tolist()}


def _counts_law(problems: Problems) -> torch.Tensor:
    """Relative frequencies (B, SA, S); 0 in contexts without data, which are not judged."""
    counts = problems.counts
    return counts / counts.sum(-1, keepdim=True).clamp(min=1.0)
