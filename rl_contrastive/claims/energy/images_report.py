"""How the images study is shown: tables with intervals, bars, the sentence of its answer, and pictures of samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from rl_contrastive.analysis.figures import draw, words
from rl_contrastive.analysis.statistics import Interval
from rl_contrastive.claims.base import Bar, Context, Table
from rl_contrastive.claims.energy.image_data import load, split
from rl_contrastive.claims.energy.images_config import LEVELS, WIDE
from rl_contrastive.claims.grid import Cell, all_failures
from rl_contrastive.spec import FloatArray

if TYPE_CHECKING:
    from rl_contrastive.claims.energy.images_config import ImagesConfig

BAR = 0.65
NOT_COPIES = 0.9
"""Generated images may lie at most a tenth nearer to the training images than unseen real ones do."""
METRICS = {
    "accuracy": "two-sample accuracy",
    "grey": "of grey values",
    "frechet": "Frechet distance",
    "to_test": "distance to test",
}
"""What an energy is compared with its noise law in; lower is better."""
SAVED = (*METRICS, "own", "real", "to_train", "near", "ess", "acceptance")
SHOWN = 8
"""Images in a row and a column of the picture."""
Cells = dict[tuple[str, str], Cell]
Gains = dict[tuple[str, str, str], Interval]
"""(image set, energy, metric) -> energy - its noise law, paired by seed."""


def best_energy(cells: Cells, images: str, energies: list[str]) -> str:
    """The energy of the lowest error on the tuning seeds; the first where nothing was tuned."""

    def tuned(method: str) -> float:
        scores = [score for _, score in cells[images, method].tuning if np.isfinite(score)]
        return min(scores, default=np.inf)

    return min(energies, key=tuned)


def table(config: ImagesConfig, cells: Cells, images: str) -> Table:
    """One row a method."""
    rows = []
    for method in config.methods:
        cell = cells[images, method]
        options = ", ".join(f"{k} {v}" for k, v in cell.options.items()) or "-"
        numbers = [_cell(cell, metric) for metric in (*METRICS, "to_train", "near")]
        rows.append((method, options, _halves(cell), *numbers, _plain(cell, "ess", 0), _plain(cell, "seconds", 1)))
    failures = all_failures(cells[images, m] for m in config.methods)
    note = (
        f"Mean and 95% t interval over n = {len(config.seeds)} seeds, each a split of its own with its own "
        "training. Two-sample accuracy: 1-NN on points, .5 is perfect, and on grey values; own / real: its two halves, "
        "the shares of generated and of real images whose nearest neighbour is of their own kind (a first one far "
        "below .5 tells of samples too wide). Other distances: of grey values in levels; Frechet in "
        f"{config.axes} principal axes. To train: mean distance to the nearest training image over that of unseen real "
        "images (1: new, 0: copies); near: share nearer than 95% of the unseen (.05: new, 1: copies). ESS: of "
        f"{config.proposals} draws of q that were resampled. s: seconds to fit and generate."
    )
    columns = ("method", "options", "own / real", *METRICS.values(), "to train", "near", "ESS", "s")
    return Table(images, columns, rows, " ".join([note, *failures]))


def gains_table(config: ImagesConfig, gains: Gains) -> Table:
    """What each energy adds to its noise law."""
    rows = [(images, method, METRICS[metric], words(v, 3), verdict(v)) for (images, method, metric), v in gains.items()]
    note = (
        f"Energy - its own q in the same metric, paired by seed (n = {len(config.seeds)}), 95% t interval, no "
        "correction for the number of rows; below 0 is better."
    )
    return Table(
        "What the energy adds to its noise law", ("images", "method", "metric", "difference", "is"), rows, note
    )


def verdict(difference: Interval) -> str:
    """What an interval of a difference of distances supports."""
    if difference.high < 0.0:
        return "better"
    return "worse" if difference.low > 0.0 else "not different"


def bars(images: str, best: str, cells: Cells) -> list[Bar]:
    """Two-sample accuracy of the energy that tuning chose, and that it does not copy."""
    cell = cells[images, best]
    accuracy, ratio = cell.interval("accuracy"), cell.interval("to_train")
    n = int(np.isfinite(cell.metrics["accuracy"]).sum())
    return [
        Bar(
            what=f"{images}: two-sample accuracy, {best}",
            bar=f"<= {BAR} over >= 3 seeds",
            measured=f"{words(accuracy, 3)}, n = {n}; own / real {_halves(cell)}; of grey values {_cell(cell, 'grey')}",
            met=accuracy.estimate <= BAR and n >= 3,
        ),
        Bar(
            what=f"{images}: distance to train, generated / unseen real, {best}",
            bar=f">= {NOT_COPIES} (no copies)",
            measured=words(ratio, 3),
            met=ratio.estimate >= NOT_COPIES,
        ),
    ]


def sentence(images: str, best: str, cells: Cells, gains: Gains) -> str:
    """What the intervals support about one image set."""
    found = {metric: verdict(gains[images, best, metric]) for metric in METRICS}
    listed = "; ".join(f"{METRICS[m]} {found[m]} ({words(gains[images, best, m], 3)})" for m in METRICS)
    cell = cells[images, best]
    text = (
        f"On {images} the energy that tuning chose, {best}, reaches a two-sample accuracy of "
        f"{words(cell.interval('accuracy'), 3)} (halves {_halves(cell)}) and lies "
        f"{words(cell.interval('to_train'), 3)} times as far from the training images as "
        f"unseen ones do. Against its own noise law: {listed}."
    )
    if (images, WIDE) in cells and "accuracy" in cells[images, WIDE].metrics:
        wide = cells[images, WIDE]
        text += (
            f" The measure has a hole: a mixture 1.5 times too wide scores {words(wide.interval('accuracy'), 3)} "
            f"(halves {_halves(wide)}), so an accuracy near .5 means something only if both halves are."
        )
    return text


def _halves(cell: Cell) -> str:
    return f"{_plain(cell, 'own', 2)} / {_plain(cell, 'real', 2)}"


def picture(config: ImagesConfig, cells: Cells, context: Context, images: str, best: str) -> str:
    """Samples of the first seed that did not fail, side by side with real images."""
    shape = load(images).shape
    shown: dict[str, FloatArray] = {}
    real = split(load(images), config.seeds[0], most=config.most).test
    shown["real test images"] = real[: SHOWN**2].numpy()
    for method in dict.fromkeys(["GMM", "KDE", "q: GMM", "q: Gaussian", LEVELS, best]):
        if (images, method) not in cells:
            continue
        cell = cells[images, method]
        good = [seed for seed in cell.seeds if seed not in cell.failed]
        if good:
            with np.load(cell.folders[good[0]] / "images.npz", allow_pickle=False) as kept:
                shown[method] = kept["values"]
    panels = {title: _tiles(values, shape, load(images).levels) for title, values in shown.items()}
    caption = (
        f"{images}: the first {SHOWN**2} images of the first of n = {len(config.seeds)} seeds, none picked; {best} is "
        "what tuning chose."
    )
    return draw(context.out, f"images-{images}", panels, caption)


def _tiles(values: FloatArray, shape: tuple[int, int], levels: int) -> Callable[[Any], None]:
    H, W = shape
    count = SHOWN
    sheet = np.full((count * (H + 1), count * (W + 1)), np.nan)
    for i, image in enumerate(values[: count * count]):
        top, left = i // count * (H + 1), i % count * (W + 1)
        sheet[top : top + H, left : left + W] = image.reshape(H, W)

    def paint(axis: Any) -> None:
        axis.imshow(sheet, cmap="gray_r", vmin=0.0, vmax=levels - 1.0, interpolation="nearest")
        axis.set_axis_off()

    return paint


def _cell(cell: Cell, metric: str) -> str:
    return words(cell.interval(metric), 3) if metric in cell.metrics else "failed"


def _plain(cell: Cell, metric: str, places: int) -> str:
    value = cell.interval(metric).estimate if metric in cell.metrics else np.nan
    return "-" if np.isnan(value) else f"{value:.{places}f}"
