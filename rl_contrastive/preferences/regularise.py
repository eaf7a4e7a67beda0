"""Any loss of pairs with any regulariser: what RPO and HyPO are for DPO, for the other losses, too.

    loss = objective + weight * regulariser(chosen, or the policy's own completions)

For instance IPO with the likelihood of the chosen: `Regularised(IPO(), NLL(), 0.01)`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from rl_contrastive.config import require, require_number
from rl_contrastive.preferences.base import (
    Completions,
    PairObjective,
    Pairs,
    PreferenceResult,
    Reduce,
    Regulariser,
    State,
)
from rl_contrastive.preferences.pairwise import online_kl


@dataclass(frozen=True)
class NLL(Regulariser):
    """-log pi(y), summed or averaged over steps, mean over pairs (..., P, T) -> (...): the regulariser of RPO."""

    reduce: Reduce = "sum"
    """Over steps: their sum or their mean."""

    def __post_init__(self) -> None:
        require(self.reduce in ("sum", "mean"), f"NLL: reduce must be one of 'sum', 'mean', got {self.reduce!r}.")

    def __call__(self, y: Completions) -> Tensor:
        return -y.log_prob(self.reduce).mean(-1)


@dataclass(frozen=True)
class OnlineKL(Regulariser):
    """KL(pi || pi_ref) of the policy's own completions (..., B, K, T) -> (...), as `online_kl`: that of HyPO."""

    def __call__(self, y: Completions) -> Tensor:
        return online_kl(y)


class Regularised(PairObjective):
    """objective + weight * regulariser(y); y are the chosen completions, or those that the policy drew ("online").

    Rows and margin are those of the objective; diagnostics get "regulariser". Weights of pairs do not reach the
    regulariser, whereas those of RPO reach its likelihood. RlcError on a part of the wrong kind, a weight that is
    negative or not finite, and a regulariser that does not give one number for each problem.
    """

    def __init__(
        self, pair_objective: PairObjective, regulariser: Regulariser, weight: float,
        on: Literal["chosen", "online"] = "chosen",
    ) -> None:  # fmt: skip
        kind = type(pair_objective).__name__
        require(isinstance(pair_objective, PairObjective), f"Regularised: needs a PairObjective, got {kind}.")
        good = callable(regulariser) and not isinstance(regulariser, type)
        require(good, f"Regularised: the regulariser must be an object to call, as NLL(), got {regulariser!r}.")
        require_number("Regularised: weight", weight)
        require(0 <= weight < float("inf"), f"Regularised: weight must be >= 0 and finite, got {weight}.")
        require(on in ("chosen", "online"), f"Regularised: on must be one of 'chosen', 'online', got {on!r}.")
        self.objective, self.regulariser, self.weight, self.on = pair_objective, regulariser, weight, on
        self.needs = pair_objective.needs | ({"online"} if on == "online" else set())

    def initial(self, hidden: int, rng: torch.Generator) -> State:
        return self.objective.initial(hidden, rng)

    def parameters(self, state: State) -> list[nn.Parameter]:
        return self.objective.parameters(state)

    def loss(self, pairs: Pairs, state: State) -> tuple[PreferenceResult, State]:
        y = pairs.chosen if self.on == "chosen" else pairs.online
        assert y is not None
        result, state = self.objective.loss(pairs, state)
        extra = self.regulariser(y)
        want, got = tuple(result.loss.shape), tuple(extra.shape)
        require(want == got, f"Regularised: the regulariser must give shape {want}, one number a problem, got {got}.")
        told = {**result.diagnostics, "regulariser": extra.detach()}
        return replace(result, loss=result.loss + self.weight * extra, diagnostics=told), state
