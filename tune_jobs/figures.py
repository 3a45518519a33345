"""Figures of a table: training loss and test error against epochs, seeds as bands. Matplotlib without its state.

Files are deterministic: the same results give the same bytes with the same version of matplotlib.
"""

import html
import io
import math
import re
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tune_jobs.results import TrialResults
from tune_jobs.summary import CellSummary, TableSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Measure = Literal["train-loss", "test-error"]

_TITLES: dict[Measure, tuple[str, str]] = {
    "train-loss": ("Training loss", "training loss (log scale)"),
    "test-error": ("Test error", "top-1 test error, %"),
}
_KEYS: dict[Measure, tuple[str, float]] = {"train-loss": ("train_loss", 1.0), "test-error": ("top1_error", 100.0)}

# Colours that stay apart in the common forms of colour blindness (Okabe and Ito 2008), without the yellow, which
# vanishes on white; the ninth line and later ones repeat them in other dashes.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)))
_INK, _RULE, _PAPER = "#24292f", "#d0d7de", "#fffffe"
_MOST_LINES = 12
_BEST = 5

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "resnet-dist",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "font.size": 9.0,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "axes.facecolor": "none",
    "figure.facecolor": _PAPER,
    "grid.color": _RULE,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class Drawing:
    """One figure in both formats."""

    measure: Measure
    title: str
    svg: str
    png: bytes


@dataclass(frozen=True)
class _Curve:
    label: str
    epochs: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]


def draw(table: TableSummary, measure: Measure) -> Drawing | None:
    """The figure of one measure of a table; None while no trial of it has finished an epoch."""
    curves = [curve for cell in table.cells if (curve := _curve(cell, measure))]
    if not curves:
        return None
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    title = f"{_TITLES[measure][0]}: {table.title}"
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A label in a script that the font lacks shows as boxes in the PNG and correctly in the SVG.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        entries = len(curves) if len(curves) <= _MOST_LINES else _BEST + 2
        legend_rows = math.ceil(entries / _legend_columns([curve.label for curve in curves]))
        figure = Figure(figsize=(6.4, 3.8 + 0.2 * legend_rows), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        _decorate(axes, table, measure)
        lines = (
            _envelope(axes, curves)
            if len(curves) > _MOST_LINES
            else [_line(axes, curve, index) for index, curve in enumerate(curves)]
        )
        if measure == "test-error":
            last = max(curve.mean[-1] for curve in curves)
            axes.set_ylim(0, max(1e-3, min(100.0, 2.5 * last, max(max(curve.high) for curve in curves) * 1.05)))
        _legend(figure, lines)
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Title": title})
        figure.set_layout_engine(None)  # the layout is there now, and computing it takes most of the time
        figure.savefig(png, format="png", dpi=150, metadata={"Software": None, "Title": title})
    return Drawing(measure, title, svg.getvalue(), png.getvalue())


def inline_svg(drawing: Drawing, prefix: str) -> str:
    """The SVG for a place inside an HTML page: ids made unique, colours taken from the page's own.

    The page defines the CSS variables `--ink` and `--rule`.
    """
    svg = drawing.svg[drawing.svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<title>.*?</title>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{prefix}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{prefix}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}-\1)", svg)
    for colour, variable in ((_INK, "var(--ink)"), (_RULE, "var(--rule)"), (_PAPER, "none")):
        svg = svg.replace(colour, variable)
    opening, rest = svg.split(">", 1)
    opening = re.sub(r'\s(width|height)="[^"]*"', "", opening)
    title = html.escape(drawing.title)
    return f'{opening} role="img" aria-label="{title}">{rest}'


def _curve(cell: CellSummary, measure: Measure) -> _Curve | None:
    """Mean and range over seeds, as far as every seed that is still in the running has come."""
    key, scale = _KEYS[measure]
    seeds = [_points(trial, key) for trial in cell.trials if trial.metrics and trial.state != "failed"]
    if not seeds:
        return None
    epochs = sorted(set.intersection(*(set(points) for points in seeds)))
    if not epochs:
        return None
    values = [[points[epoch] * scale for points in seeds] for epoch in epochs]
    return _Curve(
        cell.label,
        epochs,
        [math.fsum(row) / len(row) for row in values],
        [min(row) for row in values],
        [max(row) for row in values],
    )


def _points(trial: TrialResults, key: str) -> dict[int, float]:
    return {int(row["epoch"]): row[key] for row in trial.metrics if math.isfinite(row[key])}


def _decorate(axes: "Axes", table: TableSummary, measure: Measure) -> None:
    axes.set_xlabel("epochs")
    axes.set_ylabel(_TITLES[measure][1])
    axes.grid(True, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["top"].set_visible(False)
    axes.margins(x=0.01)
    from matplotlib.ticker import LogFormatter, MaxNLocator

    class Plain(LogFormatter):
        """Labels those ticks that matplotlib would, some minor ones where the range is short, but as 0.1, 0.01."""

        def __call__(self, value: float, position: int | None = None) -> str:
            return f"{value:g}" if super().__call__(value, position) else ""

    if measure == "train-loss":
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(Plain())
        axes.yaxis.set_minor_formatter(Plain())
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for epoch in _drops(table):
        axes.axvline(epoch, color=_INK, linewidth=0.7, alpha=0.45, linestyle=(0, (4, 3)))
    if per_epoch := _steps_per_epoch(table):

        def to_iterations(epochs: Any) -> Any:
            return epochs * per_epoch

        def to_epochs(iterations: Any) -> Any:
            return iterations / per_epoch

        axes.secondary_xaxis("top", functions=(to_iterations, to_epochs)).set_xlabel("iterations")


def _drops(table: TableSummary) -> list[int]:
    """Epochs after which the learning rate falls in any trial that the figure shows."""
    drops: set[int] = set()
    for cell in table.cells:
        for trial in cell.trials:
            schedule = trial.config["schedule"]
            if trial.metrics and schedule["kind"] == "step" and schedule["gamma"] < 1:
                drops |= {milestone for milestone in schedule["milestones"] if milestone < trial.epochs}
    return sorted(drops)


def _steps_per_epoch(table: TableSummary) -> float | None:
    """Iterations in an epoch, if all trials agree on them."""
    ratios = {
        round(trial.metrics[-1]["step"] / trial.metrics[-1]["epoch"], 3)
        for cell in table.cells
        for trial in cell.trials
        if trial.metrics and trial.metrics[-1].get("step")
    }
    return ratios.pop() if len(ratios) == 1 else None


def _line(axes: "Axes", curve: _Curve, index: int) -> tuple[Any, str]:
    colour = _COLOURS[index % len(_COLOURS)]
    marker = "o" if len(curve.epochs) == 1 else None  # a single epoch is a point, and a line of one is invisible
    if curve.low != curve.high:
        axes.fill_between(curve.epochs, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0)
    (line,) = axes.plot(
        curve.epochs,
        curve.mean,
        color=colour,
        linestyle=_DASHES[index // len(_COLOURS) % len(_DASHES)],
        linewidth=1.4,
        marker=marker,
    )
    return line, curve.label


def _envelope(axes: "Axes", curves: Sequence[_Curve]) -> list[tuple[Any, str]]:
    """Too many cells for lines of their own: the range and the middle half of all, and the best few."""
    import numpy as np

    epochs = sorted(set().union(*(curve.epochs for curve in curves)))
    by_epoch: dict[int, list[float]] = {epoch: [] for epoch in epochs}
    for curve in curves:
        for epoch, value in zip(curve.epochs, curve.mean, strict=True):
            by_epoch[epoch].append(value)
    quartiles = np.array([np.percentile(by_epoch[epoch], (0, 25, 75, 100)) for epoch in epochs])
    shown = [
        (
            axes.fill_between(epochs, quartiles[:, 0], quartiles[:, 3], color="#8c959f", alpha=0.2, linewidth=0),
            f"range of all {len(curves)} rows",
        ),
        (
            axes.fill_between(epochs, quartiles[:, 1], quartiles[:, 2], color="#8c959f", alpha=0.4, linewidth=0),
            "middle half of them",
        ),
    ]
    best = sorted(curves, key=lambda curve: (-curve.epochs[-1], curve.mean[-1]))[:_BEST]
    return shown + [_line(axes, curve, index) for index, curve in enumerate(best)]


def _legend_columns(labels: Sequence[str]) -> int:
    return 2 if len(labels) > 1 and max(map(len, labels)) <= 40 else 1


def _legend(figure: "Figure", lines: Sequence[tuple[Any, str]]) -> None:
    labels = [textwrap.shorten(label, 90, placeholder=" …") for _, label in lines]
    legend = figure.legend(
        [handle for handle, _ in lines],
        [str(index) for index in range(len(lines))],
        loc="outside lower center",
        ncols=_legend_columns(labels),
        frameon=False,
        fontsize=8,
    )
    # Set afterwards: the legend would leave out a label that begins with an underscore.
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)
