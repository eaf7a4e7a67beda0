"""Claim: contrastive search writes text that neither repeats itself nor leaves what the model holds probable.

A small GRU learns the docstrings of Python's standard library. It continues held-out prompts: greedily, by contrastive
search (h = the GRU's state once the word is read), with a random penalty of the same alpha and k, and by nucleus
sampling. diversity = product over n = 2..4 of the share of distinct n-grams of a text; log p of a word by the model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from rl_contrastive.analysis.figures import colour, draw, rng_of
from rl_contrastive.claims.base import Bar, Context, Report, Table
from rl_contrastive.claims.grid import Cell, Grid, figure, gap_of, run_grid
from rl_contrastive.claims.ledger import Task
from rl_contrastive.claims.objectives.docstrings import UNKNOWN, Corpus, corpus
from rl_contrastive.claims.stacked import SEEDS
from rl_contrastive.config import Ge, Gt, In, Options, require
from rl_contrastive.objectives.parts import draw_linear
from rl_contrastive.objectives.samplers import SimCTG
from rl_contrastive.objectives.views import Views
from rl_contrastive.planning.contrastive_search import contrastive_search, isotropy
from rl_contrastive.registry import register
from rl_contrastive.spec import FloatArray, IntArray

GREEDY, SEARCH, RANDOM, NUCLEUS = "greedy", "contrastive search", "random penalty", "nucleus"
DIVERSE, GREEDY_MOST = 0.9, 0.1


@dataclass(frozen=True)
class TextConfig(Options, where="contrastive-search-text"):
    """Sizes of the measurement."""

    words: Annotated[int, Ge(20)] = 1500
    """Vocabulary: the most frequent words, one number for the rest."""
    hidden: Annotated[int, Ge(4)] = 128
    """Width of the GRU and of its embeddings."""
    steps: Annotated[int, Ge(1)] = 700
    """Steps of Adam."""
    batch: Annotated[int, Ge(1)] = 16
    """Stretches of a step."""
    stretch: Annotated[int, Ge(2)] = 24
    """Words of a stretch."""
    lr: Annotated[float, Gt(0)] = 5e-3
    """Adam's step size."""
    simctg: Annotated[float, Ge(0)] = 0.0
    """Weight of SimCTG in training, the companion loss that spreads the states of a stretch; 0 is the specified model.
    """
    prompts: Annotated[int, Ge(1)] = 40
    """Held-out prompts of a seed."""
    prompt: Annotated[int, Ge(1)] = 16
    """Words of a prompt."""
    length: Annotated[int, Ge(5)] = 60
    """Words written."""
    k: Annotated[int, Ge(1)] = 5
    """Words the selector chooses among."""
    alphas: tuple[float, ...] = (0.3, 0.6, 0.8)
    """Weights of the penalty; the bars are at alpha."""
    alpha: Annotated[float, In(0, 1)] = 0.6
    """The paper's, one of alphas."""
    nucleus: Annotated[float, In(0, 1, above=True)] = 0.95
    """Mass of the words nucleus sampling draws from."""
    seeds: tuple[int, ...] = SEEDS
    """Seeds: a model each."""

    @classmethod
    def quick(cls) -> TextConfig:
        """Seconds."""
        return cls(words=400, hidden=32, steps=250, prompts=20, alphas=(0.6,), seeds=(500, 501))

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.alpha in self.alphas, "contrastive-search-text: alphas must hold alpha.")


class Writer(nn.Module):
    """Embedding, GRU, logits: words (N, T) -> states (N, T, d)."""

    def __init__(self, config: TextConfig, *, rng: torch.Generator) -> None:
        super().__init__()
        d = config.hidden
        self.embed = nn.Parameter(0.1 * torch.randn(config.words, d, generator=rng))
        self.gru = nn.GRU(d, d, batch_first=True)
        with torch.no_grad():
            for p in self.gru.parameters():
                p.uniform_(-(d**-0.5), d**-0.5, generator=rng)
        self.out = draw_linear(nn.Linear(d, config.words), rng=rng)

    def forward(self, words: Tensor, state: Tensor | None = None) -> Tensor:
        states: Tensor = self.gru(self.embed[words], state)[0]
        return states

    def log_p(self, h: Tensor) -> Tensor:
        """(..., d) -> (..., words), the unknown word excluded."""
        logits: Tensor = self.out(h)
        return torch.log_softmax(logits.index_fill(-1, torch.tensor([UNKNOWN]), -torch.inf), dim=-1)


def trained(config: TextConfig, text: Corpus, seed: int) -> Writer:
    """Cross-entropy of the next known word on stretches drawn anywhere."""
    rng, torch_rng = rng_of(seed, 1), torch.Generator().manual_seed(seed)
    model = Writer(config, rng=torch_rng)
    optimiser = torch.optim.Adam(model.parameters(), lr=config.lr)
    at, spread = np.arange(config.stretch + 1), SimCTG()
    for step in range(config.steps):
        start = rng.integers(len(text.train) - config.stretch, size=(config.batch, 1))
        words = torch.from_numpy(text.train[start + at])
        states = model(words[:, :-1])  # (B, T, d)
        logits = model.out(states).flatten(0, 1)
        loss = nn.functional.cross_entropy(logits, words[:, 1:].flatten(), ignore_index=UNKNOWN)
        if config.simctg:
            loss = loss + config.simctg * spread(Views(states.unsqueeze(1))).loss.mean()
        optimiser.param_groups[0]["lr"] = config.lr * (1.0 - step / config.steps)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return model


@torch.no_grad()
def write(
    model: Writer, prompts: Tensor, config: TextConfig, method: str, alpha: float, *, rng: np.random.Generator
) -> tuple[IntArray, FloatArray, FloatArray]:
    """Continue prompts (N, T): words written (N, L), their log p (N, L), the states of the whole text (N, T + L, d)."""
    N, k = len(prompts), config.k
    past = model(prompts)  # (N, T, d)
    each, written, said = torch.arange(N), [], []
    for _ in range(config.length):
        h = past[:, -1]
        log_p = model.log_p(h)  # (N, words)
        if method == NUCLEUS:
            word = torch.from_numpy(nucleus(log_p.double().exp().numpy(), config.nucleus, rng=rng))
            after = model(word[:, None], h[None])[:, 0]
        else:
            choice: IntArray = np.zeros(N, dtype=np.int64)  # greedy
            top, words = log_p.topk(k, dim=-1)  # (N, k)
            states = model(words.reshape(-1, 1), h.repeat_interleave(k, 0)[None]).reshape(N, k, -1)
            p = top.double().exp().numpy()
            if method == SEARCH:
                choice = contrastive_search(p, states.numpy(), past.numpy(), alpha=alpha, k=k)
            elif method == RANDOM:
                choice = ((1.0 - alpha) * p - alpha * rng.random(p.shape)).argmax(axis=1)
            word, after = words[each, torch.from_numpy(choice)], states[each, torch.from_numpy(choice)]
        said.append(log_p[each, word])
        written.append(word)
        past = torch.cat([past, after[:, None]], dim=1)
    return torch.stack(written, 1).numpy(), torch.stack(said, 1).double().numpy(), past.double().numpy()


def nucleus(p: FloatArray, mass: float, *, rng: np.random.Generator) -> IntArray:
    """A draw (N,) from the fewest words (N, W) that have this mass together."""
    order = np.argsort(-p, axis=1, kind="stable")
    q = np.take_along_axis(p, order, axis=1)
    q = np.where(q.cumsum(axis=1) - q < mass, q, 0.0)
    drawn = (q.cumsum(axis=1) > rng.random((len(p), 1)) * q.sum(axis=1, keepdims=True)).argmax(axis=1)
    return np.asarray(order[np.arange(len(p)), drawn])


def diversity(words: IntArray) -> float:
    """Mean over texts (N, L) of prod_{n=2..4} of the share of distinct n-grams."""
    out = []
    for text in words.tolist():
        grams = [list(zip(*(text[i:] for i in range(n)), strict=False)) for n in (2, 3, 4)]
        out.append(math.prod(len(set(g)) / len(g) for g in grams))
    return float(np.mean(out))


def fit(config: TextConfig, task: Task) -> dict[str, Sequence[float]]:
    """Diversity and log p of all methods with the model of one seed."""
    (seed,) = task.seeds
    text = corpus(config.words, rng=rng_of(seed, 0))
    model = trained(config, text, seed)
    rng = rng_of(seed, 2)
    start = rng.integers(len(text.held) - config.prompt, size=(config.prompts, 1))
    prompts = torch.from_numpy(text.held[start + np.arange(config.prompt)])
    found: dict[str, Sequence[float]] = {}
    for i, method in enumerate(methods_of(config)):
        kind, _, alpha = method.partition(" @ ")
        words, log_p, states = write(model, prompts, config, kind, float(alpha or 0.0), rng=rng_of(seed, 3, i))
        found[f"diversity, {method}"] = [diversity(words)]
        found[f"log p, {method}"] = [float(log_p.mean())]
        found[f"isotropy, {method}"] = [isotropy(states)]
    found["perplexity"] = [perplexity(model, text.held)]
    return found


@torch.no_grad()
def perplexity(model: Writer, held: IntArray) -> float:
    """exp of minus the mean log p of the known words of a text (T,), read as one line."""
    words = torch.from_numpy(held)[None]
    log_p = model.log_p(model(words[:, :-1]))[0, torch.arange(len(held) - 1), words[0, 1:]]
    return float(torch.exp(-log_p[words[0, 1:] != UNKNOWN].mean()))


def methods_of(config: TextConfig) -> list[str]:
    """Selectors in the order of the table."""
    return [GREEDY, *(f"{SEARCH} @ {a:g}" for a in config.alphas), f"{RANDOM} @ {config.alpha:g}", NUCLEUS]


@register("claim", "objectives/contrastive-search-text", TextConfig)
def contrastive_search_text(config: TextConfig, context: Context) -> Report:
    """Contrastive search is as diverse as sampling at a higher log p, on docstrings."""
    grid = Grid(["docstrings"], {"all": [{}]}, "perplexity", (), config.seeds)
    (cell,) = run_grid(fit, config, grid, context).values()
    return _report(config, context, {m: _of(cell, m) for m in methods_of(config)}, cell)


def _of(cell: Cell, method: str) -> Cell:
    """The numbers of one selector, as a cell of its own."""
    metrics = {name: cell.metrics[f"{name}, {method}"] for name in ("diversity", "log p", "isotropy")}
    return Cell(cell.setting, method, {}, cell.seeds, metrics)


def _report(config: TextConfig, context: Context, cells: dict[str, Cell], whole: Cell) -> Report:
    search, random = (cells[f"{kind} @ {config.alpha:g}"] for kind in (SEARCH, RANDOM))
    nucleus_cell, greedy = cells[NUCLEUS], cells[GREEDY]

    def mean(cell: Cell, name: str) -> float:
        return cell.interval(name).estimate

    def against(name: str, other: Cell) -> str:
        return (
            f"{figure(search.interval(name))} against {figure(other.interval(name))}; difference "
            f"{figure(gap_of(search, other, name))}"
        )

    bars = [
        Bar(f"diversity at alpha {config.alpha:g}", f">= {DIVERSE}", figure(search.interval("diversity")),
            mean(search, "diversity") >= DIVERSE),
        Bar("diversity against random penalty", "higher, its interval too", against("diversity", random),
            bool(gap_of(search, random, "diversity").low > 0)),
        *(Bar(f"log p a word against {other.method}", "higher, its interval too", against("log p", other),
              bool(gap_of(search, other, "log p").low > 0)) for other in (random, nucleus_cell)),
        Bar("control: greedy", f"must stay <= {GREEDY_MOST} of diversity", figure(greedy.interval("diversity")),
            mean(greedy, "diversity") > GREEDY_MOST, control=True),
    ]  # fmt: skip
    names = ("diversity", "log p", "isotropy")
    rows = [(m, *(figure(c.interval(x)) for x in names)) for m, c in cells.items()]
    note = (
        f"n = {len(config.seeds)} seeds, a model of {config.hidden} units and {config.words} words each (SimCTG "
        f"{config.simctg:g}, held-out "
        f"perplexity {figure(whole.interval('perplexity'))}), {config.prompts} prompts of {config.prompt} words, "
        f"{config.length} words written; 95% t-intervals. Isotropy: 1 - mean cosine of the states of a text."
    )
    worst = "all bars are met" if all(b.ok for b in bars) else "missed: " + ", ".join(b.what for b in bars if not b.ok)
    return Report(
        claim="Contrastive search keeps generated text diverse at a higher log p than random penalties and nucleus",
        answer="Diversity / log p a word: "
        + "; ".join(f"{m} {mean(c, 'diversity'):.3f} / {mean(c, 'log p'):.2f}" for m, c in cells.items())
        + f"; {worst}. From model to model diversity at alpha {config.alpha:g} runs from "
        f"{search.metrics['diversity'].min():.2f} to {search.metrics['diversity'].max():.2f}.",
        bars=bars,
        tables=[Table(f"Selectors, k = {config.k}", ("selector @ alpha", "diversity", "log p a word", "isotropy"),
                      rows, note)],
        plots=[_plot(config, context, cells)],
        numbers={m: c.metrics for m, c in cells.items()} | {"perplexity": whole.metrics["perplexity"]},
    )  # fmt: skip


def _plot(config: TextConfig, context: Context, cells: dict[str, Cell]) -> str:
    def panel(axis: Any) -> None:
        for i, (method, cell) in enumerate(cells.items()):
            style = {"marker": "osD^vP*"[i % 7], "color": colour(i), "linestyle": ""}
            axis.plot(cell.metrics["log p"], cell.metrics["diversity"], label=method, **style)
        axis.set(xlabel="log p a word", ylabel="diversity", ylim=(-0.03, 1.03))

    text = f"A marker is a model (seed); {config.hidden} units, {config.words} words, {config.prompts} prompts."
    return draw(context.out, "contrastive-search-text", {"Diversity and probability": panel}, text, aside=True)
