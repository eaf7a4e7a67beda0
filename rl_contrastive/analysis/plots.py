"""Style and output of figures: colours, fonts for pages and papers, PNG, SVG and PDF.

Headless (Agg canvas, no pyplot state), a colour-blind-safe palette (Okabe & Ito), and the same bytes for the same
numbers: SVG ids are salted, dates left out, text kept as text.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rl_contrastive.files import durably

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure


PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5D3A9B", "#7F7F7F")
PALETTE_DARK = ("#4fa8e0", "#ff8a4c", "#2bc79a", "#e6a3c8", "#f2b632", "#8fd0f5", "#ab8de6", "#a8a8a8")
"""The same hues where the page is dark."""
PAPER_FONT = 8.0
"""Points, of a figure that a paper prints at its own size."""
DASHES = ((), (5, 2), (1, 1.2), (6, 2, 1, 2))
INK, FAINT = "#222222", "#8a8a8a"
STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "text.color": INK,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "svg.hashsalt": "rl_contrastive",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # text that can be searched and edited, as in the SVG
    "path.simplify": False,
}
Format = Literal["pdf", "svg", "png"]
UNDATED: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""Metadata left out of a file so that it depends on the figure alone."""
LABEL = 24
"""Characters of an agent's name in one line beside a panel."""


@contextmanager
def style(*, paper: bool = False, text: Literal["text", "path"] = "text") -> Iterator[None]:
    """The library's figure style, for the duration of a `with`; paper: with the font of a printed page.

    text: how an SVG keeps its words, as text (which needs the font where it is shown) or as outlines.
    """
    import matplotlib

    changes: dict[str, Any] = {"svg.fonttype": "none" if text == "text" else "path"}
    if paper:
        ratio = PAPER_FONT / STYLE["font.size"]
        sizes = {key: STYLE[key] * ratio for key in ("font.size", "axes.titlesize")}
        changes |= sizes | {"axes.titlepad": 8.0, "lines.markersize": 4.5, "axes.linewidth": 0.6, "grid.linewidth": 0.5}
    with matplotlib.rc_context(STYLE | changes):
        yield


def points(size: float) -> float:
    """A font size, given for the page, in the style that holds now."""
    import matplotlib

    return size * float(matplotlib.rcParams["font.size"]) / float(STYLE["font.size"])


def new_figure(width: float, height: float) -> Figure:
    """A figure with its own Agg canvas: nothing global, no display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, stem: Path) -> str:
    """Write stem.png and stem.svg, without dates or versions; returns the SVG text."""
    write(figure, stem, "png")
    # The layout is done; to compute it again would take as long as drawing.
    figure.set_layout_engine(None)
    return write(figure, stem, "svg").decode()


def write(figure: Figure, stem: Path, kind: Format, *, dpi: int = 160) -> bytes:
    """Write stem.KIND, the same bytes for the same figure; returns them."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=dpi if kind == "png" else "figure", metadata=UNDATED[kind])
    durably(stem.with_suffix(f".{kind}"), lambda file: file.write(buffer.getvalue()))
    return buffer.getvalue()


def colours(agents: Sequence[str]) -> dict[str, tuple[str, tuple[float, ...]]]:
    """Agent -> (colour, dash pattern); more agents than colours differ by dashes."""
    n = len(PALETTE)
    return {a: (PALETTE[i % n], DASHES[(i // n) % len(DASHES)]) for i, a in enumerate(agents)}


def diverging() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("orange-blue", ["#B04A00", "#F4C9A8", "#F5F5F5", "#A9CFE6", "#005A91"])


def short(value: float) -> str:
    """950, 1.5k, 4096, 20k, 3M."""
    if 1e3 <= abs(value) < 1e4 and value % 10:
        return f"{value:.0f}"
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"


def caption(figure: Figure, text: str, *, paper: bool = False) -> None:
    """One or two small lines under the panels, wrapped to the figure's width; for a paper, only the figure's label."""
    import textwrap

    figure.set_label(text)
    if paper:
        return
    lines = textwrap.wrap(text, int(figure.get_size_inches()[0] * 14.5))
    figure.supxlabel(verbatim("\n".join(lines)), fontsize=8, color="#555555", x=0.01, ha="left")


def wrap(name: str, width: int = 14) -> str:
    """A long agent name in lines, broken at hyphens and spaces."""
    import textwrap

    return verbatim("\n".join(textwrap.wrap(name, width)))


def verbatim(text: str) -> str:
    """A user's text, escaped, because matplotlib reads text between two dollar signs as mathematics."""
    return text.replace("$", r"\$")
