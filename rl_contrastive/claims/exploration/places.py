"""Claim: under noise, contrastive features tell places apart and leave the noise out; drawn and inverse ones do less.

Random play in MiniGrid's rooms, whose floor and walls change colour at every step (disco), or whose numbers have normal
noise. Features psi(s') are learned from it, and observations of an episode are named by them (`deep/names.py`).
The views without noise tell which observations are truly the same:

    precision = P(same view | same name),  recall = P(same name | same view),  over pairs of an episode
    F1 = 2 precision recall / (precision + recall)

Each kind of features has the reach that was best for it on the tuning seeds, and is measured on other worlds. Bytes
never come again: their F1 is 0. Controls: contrastive features of successors in random order; no noise, where bytes do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np

from rl_contrastive import registry
from rl_contrastive.analysis.figures import colour, draw
from rl_contrastive.claims.base import Bar, Context, Report, Table
from rl_contrastive.claims.stacked import centres, lead, shown
from rl_contrastive.config import MOST_DRAWN, MOST_WIDTH, Ge, Gt, In, Options, from_dict, require
from rl_contrastive.deep.feature_net import FeatureConfig, ObsLayout
from rl_contrastive.deep.names import Closeness, Leaders, name_of
from rl_contrastive.deep.transition_learner import TransitionLearner
from rl_contrastive.spec import Array, FloatArray, IntArray

SEEDS = tuple(range(500, 510))
TUNING = (100, 101)
REACHES = (1.0, 1.5, 2.0, 3.0, 4.0)
NOISES = ("disco", "gaussian")
Kind = Literal["contrastive", "inverse", "drawn", "shuffled"]
KINDS: tuple[Kind, ...] = ("contrastive", "inverse", "drawn", "shuffled")
LEAD = 0.2
"""By how much contrastive features must be ahead of those as drawn."""


@dataclass(frozen=True)
class PlacesClaimConfig(Options, where="places"):
    """The play, and the training of the features, the same for all kinds."""

    world: str = "minigrid:MiniGrid-MultiRoom-N4-S5-v0"
    """Its `noise` is set, to each kind in turn."""
    rows: Annotated[int, In(1, 1000)] = 8
    """Episodes side by side."""
    steps: Annotated[int, In(2, MOST_DRAWN)] = 1500
    """Of random play, in each row."""
    updates: Annotated[int, Ge(1)] = 3000
    """Gradient steps."""
    dim: Annotated[int, In(1, MOST_WIDTH)] = 32
    """d."""
    hidden: Annotated[int, In(1, MOST_WIDTH)] = 128
    """Width of the encoder's ReLU layer."""
    lr: Annotated[float, Gt(0)] = 5e-4
    """Of Adam."""
    seeds: tuple[int, ...] = SEEDS
    """Of worlds, play and first weights."""
    tuning: tuple[int, ...] = TUNING
    """Others, by which each kind of features gets its reach."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.seeds) >= 2, "places: an interval needs at least two seeds.")
        require(not set(self.seeds) & set(self.tuning), "places: seeds and tuning must have none in common.")

    @classmethod
    def quick(cls) -> PlacesClaimConfig:
        """Seconds."""
        return cls(steps=150, updates=150, seeds=SEEDS[:2], tuning=TUNING[:1])


class Played(NamedTuple):
    """Transitions of random play; rows of one environment follow each other."""

    layout: ObsLayout
    num_actions: int
    obs: Array
    action: IntArray
    next_obs: Array
    view: IntArray
    """Number of the view of next_obs without noise."""
    episode: IntArray


def play(config: PlacesClaimConfig, noise: str, seed: int) -> Played:
    """Random play, with every second action a step ahead or the opening of a door."""
    entry, fixed = registry.get("env", config.world)
    env: Any = entry.factory(from_dict(entry.config, {**fixed, "noise": noise}, "world."), config.rows)
    spec, rng = env.env_spec, np.random.default_rng([seed, 0])
    obs, _ = env.reset(seed=[seed * config.rows + row for row in range(config.rows)])
    number, last = np.arange(config.rows), np.zeros(config.rows, dtype=np.bool_)
    parts: list[tuple[Array, ...]] = []
    views: dict[bytes, int] = {}
    for _ in range(config.steps):
        action = rng.choice([0, 1, 2, 2, 2, 5, 5], size=config.rows)
        ahead, _, terminated, truncated, _ = env.step(action)
        names = [name_of(codes) for codes in env.codes]
        view = np.array([views.setdefault(name, len(views)) for name in names])
        on = ~last  # the step after an end only begins anew
        parts.append(tuple(x[on] for x in (obs, action, ahead, view, number)))
        number, last, obs = number + config.rows * last, terminated | truncated, ahead
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    layout = ObsLayout(spec.obs_shape, spec.obs_dtype, codes=spec.codes)
    return Played(layout, spec.num_actions, *columns)


def features(config: PlacesClaimConfig, played: Played, kind: Kind, seed: int) -> FloatArray:
    """psi (n, d) of the next observations."""
    representation = {"dim": config.dim, "hidden": 64, "features": "psi", "weighted": False}
    if kind == "inverse":
        representation["loss"] = "inverse"
    encoder = {"channels": [], "hidden": [config.hidden]}
    options = {"encoder": encoder, "representation": representation, "lr": config.lr, "capacity": len(played.action)}
    rng = np.random.default_rng([seed, 1])
    learner = TransitionLearner(played.layout, played.num_actions, from_dict(FeatureConfig, options), rng=rng)
    order = rng.permutation(len(played.action)) if kind == "shuffled" else np.arange(len(played.action))
    learner.store(played.obs, played.action, played.next_obs[order])
    learner.standardise()
    for _ in range(0 if kind == "drawn" else config.updates):
        learner.step()
    learner.net.freeze()
    return learner.net.phi(played.next_obs)[:, 0]


def scores(played: Played, psi: FloatArray, reach: float) -> tuple[float, float, float]:
    """Precision, recall and F1 of names by features (n, d), over the pairs of each episode."""
    closeness = Closeness(reach)
    closeness.adapt(psi)
    leaders = Leaders(closeness)
    both = named = viewed = 0
    for episode in np.unique(played.episode):
        here = played.episode == episode
        leaders.begin(1)
        name = np.array([leaders.assign(0, x)[0] for x in psi[here]])
        same_name, same_view = (pairs(x) for x in (name, played.view[here]))
        both += int((same_name & same_view).sum())
        named += int(same_name.sum())
        viewed += int(same_view.sum())
    precision, recall = both / max(named, 1), both / max(viewed, 1)
    return precision, recall, 2 * both / max(named + viewed, 1)


def pairs(x: IntArray) -> Array:
    """Whether x_i = x_j, for i < j."""
    found: Array = (x[:, None] == x)[np.triu_indices(len(x), 1)]
    return found


def measured(config: PlacesClaimConfig, noise: str, seed: int) -> Iterator[tuple[Kind, FloatArray]]:
    """Of each kind of features: precision, recall and F1 at each reach, (R, 3)."""
    played = play(config, noise, seed)
    for kind in KINDS:
        psi = features(config, played, kind, seed)
        yield kind, np.array([scores(played, psi, reach) for reach in REACHES])


@registry.register("claim", "exploration/places", PlacesClaimConfig)
def places(config: PlacesClaimConfig, context: Context) -> Report:
    """Contrastive features name places under noise that changes every observation; drawn and inverse ones do less."""
    found: dict[tuple[str, Kind], FloatArray] = {}
    for noise in NOISES:
        by_seed: dict[int, dict[Kind, FloatArray]] = {}
        for seed in context.each(f"{noise}, world", (*config.tuning, *config.seeds)):
            by_seed[seed] = dict(measured(config, noise, seed))
        for kind in KINDS:
            best = int(np.mean([by_seed[seed][kind][:, 2] for seed in config.tuning], axis=0).argmax())
            found[noise, kind] = np.array([[*by_seed[seed][kind][best], REACHES[best]] for seed in config.seeds])
    plain = [bytes_agree(config, seed) for seed in config.seeds[:2]]
    return report(config, context, found, plain)


def bytes_agree(config: PlacesClaimConfig, seed: int) -> float:
    """F1 of bytes without noise, which is 1 if views are what bytes tell."""
    played = play(config, "none", seed)
    number: dict[bytes, int] = {}
    names = np.array([number.setdefault(name_of(one), len(number)) for one in played.next_obs], dtype=np.float64)
    return scores(played, names[:, None], 1e-9)[2]


def report(
    config: PlacesClaimConfig, context: Context, found: dict[tuple[str, Kind], FloatArray], plain: list[float]
) -> Report:
    """Bars, table, picture; found: (seeds, 4) precision, recall, F1, reach."""
    f1 = {key: x[:, 2] for key, x in found.items()}
    bars = []
    for noise in NOISES:
        drawn, inverse = f1[noise, "drawn"], f1[noise, "inverse"]
        bars += [
            lead(f"{noise}: F1, contrastive - drawn", f1[noise, "contrastive"] - drawn, LEAD),
            lead(f"{noise}: F1, contrastive - inverse", f1[noise, "contrastive"] - inverse, 0.0),
            lead(f"control, {noise}: F1, shuffled - drawn", f1[noise, "shuffled"] - drawn, LEAD, control=True),
        ]
    bars.append(Bar("without noise: F1 of bytes", "= 1", f"{min(plain):.3f}", min(plain) == 1.0))
    rows = [(noise, kind, *(shown(found[noise, kind][:, i]) for i in range(3)), f"{found[noise, kind][0, 3]:g}")
            for noise in NOISES for kind in KINDS]  # fmt: skip

    def paint(noise: str) -> Any:
        def on(axis: Any) -> None:
            values = [f1[noise, kind] for kind in KINDS]
            centre, length = centres(values)
            for i, x in enumerate(values):
                axis.errorbar(i, centre[i], length[:, i : i + 1], fmt="o", color=colour(i), capsize=4)
                axis.plot(np.full(len(x), i + 0.15), x, ".", color=colour(i), markersize=3)
            axis.set_xticks(range(len(KINDS)), KINDS, rotation=20)
            axis.set(ylabel="F1 of names", ylim=(0, 1.02))

        return on

    return Report(
        claim="under noise contrastive features tell which observations of an episode show the same place",
        bars=bars,
        tables=[Table("Names of observations", ("Noise", "Features", "precision", "recall", "F1", "reach"), rows,
                      f"{len(config.seeds)} worlds, {config.updates} gradient steps, 95% t-intervals.", 2)],
        plots=[draw(context.out, "places", {noise: paint(noise) for noise in NOISES},
                    f"{len(config.seeds)} worlds; small dots are worlds.")],
        numbers={"f1": {f"{noise}, {kind}": x for (noise, kind), x in f1.items()}},
    )  # fmt: skip
