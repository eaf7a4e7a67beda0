"""The options of `preference-policy`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from rl_contrastive.config import MOST_DRAWN, Ge, Gt, In, require
from rl_contrastive.deep.config import EncoderConfig
from rl_contrastive.device import DeviceOptions
from rl_contrastive.preferences.labels import LabelsConfig
from rl_contrastive.registry import Kind


@dataclass(frozen=True)
class PreferencePolicyConfig(DeviceOptions, where="preference-policy"):
    """A policy from labelled pairs of its own episodes."""

    OBJECTIVES: ClassVar[tuple[Kind, ...]] = ("pair-objective", "group-objective")

    batch: Annotated[int, Ge(1)] = 20
    """B, episodes played side by side, at least 2: each is in one pair, so a batch asks for B/2 labels."""
    objective: str = "dpo"
    """Registered loss of pairs or of groups (`rlc list pair-objectives`, `group-objectives`); name it before
    --help-all to see its options, such as beta."""
    objective_options: Any = field(default_factory=dict)
    """Its config, or a table of that config's fields, such as {"beta": .5}."""
    rewards: Literal["auto", "labels", "model"] = "auto"
    """What losses of groups take for rewards. labels: 1 for the winner of a pair and 0 for the loser; model: a reward
    model fitted to the pairs; auto: a model for losses that need the policy's own episodes (rloo, ppo, grpo,
    reinforce), labels for the others (copg, awr, best-of-n)."""
    labels: LabelsConfig = field(default_factory=LabelsConfig)
    """The oracle labeller, the only one who sees rewards."""
    starts: Literal["any", "same"] = "any"
    """Episodes with the same first observation are paired first. any: those left over are paired across starts, where
    log-ratios of two starts are compared as if their constants were equal; same: they are not used."""
    mixture: Annotated[float, In(0, 1, below=True)] = 0.1
    """Share of training episodes that the reference plays."""
    iterate_every: Annotated[int, Ge(0)] = 0
    """Batches after which the reference becomes the current policy, again and again; 0: it stays the initial one."""
    reference: str = "uniform"
    """Initial policy and first reference: uniform, or run:FOLDER of a finished run on the same environment."""
    floor: Annotated[float, In(0, 1, above=True)] = 0.05
    """Share of uniform actions in a reference that is a run, so that it gives each action a probability."""
    capacity: Annotated[int, In(1, 1 << 24)] = 2000
    """Labelled pairs that are kept, the newest ones."""
    updates: Annotated[int, Ge(1)] = 20
    """Gradient steps after each batch, of the policy and of the reward model each."""
    minibatch: Annotated[int, In(1, MOST_DRAWN)] = 32
    """Pairs in a gradient step."""
    lr: Annotated[float, Gt(0)] = 0.003
    """Adam's step size."""
    max_norm: Annotated[float, Gt(0)] = 10.0
    """Gradients are scaled down to this norm."""
    clock: bool | None = None
    """Policies of (h, s) and not of s alone, for tables and vectors of floats; None: on tables, unless the environment
    says that all its steps are alike."""
    encoder: EncoderConfig = field(default_factory=lambda: EncoderConfig(hidden=(64, 64)))
    """Network of observations that are no state indices."""
    device: str = "cpu"
    """cpu, cuda, cuda:N or auto (cuda if there is one). Small networks are faster on the CPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        need = "preference-policy: batch must be >= 2, as pairs are formed within a batch"
        require(self.batch >= 2, f"{need}, got {self.batch}.")
        good = self.reference == "uniform" or (self.reference.startswith("run:") and len(self.reference) > 4)
        require(good, f"preference-policy: reference must be 'uniform' or 'run:FOLDER', got {self.reference!r}.")
