"""The report's figures: each table's training loss and test error, and all tables in the layout of the paper's
Figure 6. Matplotlib without its state.

Files are deterministic: the same results give the same bytes with the same version of matplotlib.
"""

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tune_jobs.report.curves import Curve, Measure, best_curves, envelope, rate_drops, steps_per_epoch, table_curves
from tune_jobs.report.rendering import INK, Drawing, Painted, render
from tune_jobs.report.summary import TableSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLES: dict[Measure, str] = {"train-loss": "Training loss", "test-error": "Test error"}
_AXES: dict[Measure, str] = {"train-loss": "training loss (log scale)", "test-error": "top-1 test error, %"}

# Colours that stay apart in the common forms of colour blindness (Okabe and Ito 2008), without the yellow, which
# vanishes on white, and three more for the overview, where dashes have another meaning; lines beyond repeat them.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5e3c99", "#8c510a", "#6e7781")
_TOLD_APART = 6
_DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.2)))
_SHADE = "#8c959f"
_MOST_LINES = 12
_BEST = 5


def draw(table: TableSummary, measure: Measure) -> Drawing | None:
    """The figure of one measure of a table; None while no trial of it has finished an epoch."""
    curves = table_curves(table, measure)
    if not curves:
        return None
    title = f"{TITLES[measure]}: {table.title}"

    def paint(figure: "Figure") -> list[tuple["Axes", Painted]]:
        axes = figure.add_subplot()
        painted = _paint(axes, table, curves, measure)
        _legend(figure, painted.entries, [label for _, label in painted.entries])
        return [(axes, painted)]

    entries = len(curves) if len(curves) <= _MOST_LINES else _BEST + 2
    rows = math.ceil(entries / _legend_columns([curve.label for curve in curves]))
    return render(f"{table.name}-{measure}", title, _describe(curves, measure), (6.4, 3.8 + 0.2 * rows), paint)


def draw_overview(tables: Sequence[TableSummary]) -> Drawing | None:
    """All tables, a panel each, in the layout of the paper's Figure 6: test error bold, training loss dashed.

    None unless two tables have something to show: one table's own figures say more.
    """
    shown = [(table, curves) for table in tables if (curves := table_curves(table, "test-error"))]
    if len(shown) < 2:
        return None
    columns = min(3, len(shown))
    rows = math.ceil(len(shown) / columns)
    entries = max(min(len(curves), _BEST + 2 if len(curves) > _MOST_LINES else _MOST_LINES) for _, curves in shown)

    def paint(figure: "Figure") -> list[tuple["Axes", Painted]]:
        panels = []
        for index, (table, curves) in enumerate(shown):
            axes = figure.add_subplot(rows, columns, index + 1)
            axes.set_title(textwrap.fill(table.title, 44), fontsize=9, fontweight="bold")
            painted = _paint(axes, table, curves, "test-error", bold=True)
            panels.append((axes, painted))
            _legend(axes, painted.entries, [label for _, label in painted.entries], columns=1)
            right = axes.twinx()
            right.spines["right"].set_visible(True)
            _scale(right, "train-loss")
            right.set_ylabel("training loss (log scale), dashed")
            losses = {curve.label: curve for curve in table_curves(table, "train-loss")}
            for drawn, line in painted.lines:
                if loss := losses.get(drawn.label):
                    right.plot(loss.epochs, loss.mean, color=line.get_color(), linewidth=0.7, linestyle=(0, (4, 2)))
        return panels

    size = (4.6 * columns, (3.3 + 0.19 * entries) * rows)
    described = "; ".join(f"{table.title}: {_describe(curves, 'test-error')}" for table, curves in shown)
    return render("overview", "Test error (bold) and training loss (dashed) of each table", described, size, paint)


def _describe(curves: Sequence[Curve], measure: Measure) -> str:
    unit = " %" if measure == "test-error" else ""
    shown = curves if len(curves) <= _MOST_LINES else best_curves(curves, _BEST)
    ends = ", ".join(f"{c.label} {c.mean[-1]:.3g}{unit} at epoch {c.epochs[-1]}" for c in shown)
    return ends if len(shown) == len(curves) else f"the best {len(shown)} of {len(curves)} rows: {ends}"


def _paint(axes: "Axes", table: TableSummary, curves: Sequence[Curve], measure: Measure, bold: bool = False) -> Painted:
    """Draw the curves of a measure: every one, or where they are too many, their distribution and the best few."""
    axes.set_xlabel("epochs")
    axes.set_ylabel(_AXES[measure])
    axes.grid(True, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines["top"].set_visible(False)
    axes.margins(x=0.01)
    _scale(axes, measure)
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for epoch in rate_drops(table):
        axes.axvline(epoch, color=INK, linewidth=0.7, alpha=0.45, linestyle=(0, (4, 3)))
    if per_epoch := steps_per_epoch(table):
        _iterations(axes, per_epoch, max(curve.epochs[-1] for curve in curves))
    entries: list[tuple[Any, str]] = []
    shown = list(curves)
    if len(curves) > _MOST_LINES:
        spread = envelope(curves)
        for low, high, alpha, label in (
            (spread.low, spread.high, 0.2, f"range of all {len(curves)} rows"),
            (spread.lower_quartile, spread.upper_quartile, 0.4, "middle half of them"),
        ):
            band = axes.fill_between(spread.epochs, low, high, color=_SHADE, alpha=alpha, linewidth=0)
            entries.append((band, label))
        shown = best_curves(curves, _BEST)
    lines = [(curve, _line(axes, curve, index, bold)) for index, curve in enumerate(shown)]
    if measure == "test-error":
        axes.set_ylim(0, max(1e-3, min(100.0, 1.05 * _highest_but_at_first(curves))))
    return Painted(table, measure, lines, entries + [(line, curve.label) for curve, line in lines])


def _highest_but_at_first(curves: Sequence[Curve]) -> float:
    """The highest error of a seed after the first tenth of the epochs, where every network errs, as in the paper's
    figure."""
    first = max(curve.epochs[-1] for curve in curves) // 10
    return max(
        value
        for curve in curves
        for epoch, value in zip(curve.epochs, curve.high, strict=True)
        if epoch > first or epoch == curve.epochs[-1]
    )


def _scale(axes: "Axes", measure: Measure) -> None:
    from matplotlib.ticker import LogFormatter

    class Plain(LogFormatter):
        """Labels those ticks that matplotlib would, some minor ones where the range is short, but as 0.1, 0.01."""

        def __call__(self, value: float, position: int | None = None) -> str:
            return f"{value:g}" if super().__call__(value, position) else ""

    if measure == "train-loss":
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(Plain())
        axes.yaxis.set_minor_formatter(Plain())


def _iterations(axes: "Axes", per_epoch: float, last_epoch: int) -> None:
    """An axis of iterations above, in tens of thousands as in the paper if there are so many."""
    unit = 1e4 if last_epoch * per_epoch >= 2e4 else 1

    def to_iterations(epochs: Any) -> Any:
        return epochs * per_epoch / unit

    def to_epochs(iterations: Any) -> Any:
        return iterations / per_epoch * unit

    above = axes.secondary_xaxis("top", functions=(to_iterations, to_epochs))
    above.set_xlabel("iterations, 10⁴" if unit > 1 else "iterations")


def _line(axes: "Axes", curve: Curve, index: int, bold: bool) -> Any:
    told_apart = len(COLOURS) if bold else _TOLD_APART
    colour = COLOURS[index % told_apart]
    if curve.has_band and bold:
        axes.fill_between(curve.epochs, curve.low, curve.high, color=colour, alpha=0.2, linewidth=0)
    elif curve.has_band:
        for values in curve.by_seed:
            axes.plot(curve.epochs, values, color=colour, linewidth=0.5, alpha=0.45)
    (line,) = axes.plot(
        curve.epochs,
        curve.mean,
        color=colour,
        linestyle="-" if bold else _DASHES[index // told_apart % len(_DASHES)],
        linewidth=1.7 if bold else 1.4,
        # A single epoch is a point, and a line of one is invisible.
        marker="o" if len(curve.epochs) == 1 else None,
    )
    return line


def _legend_columns(labels: Sequence[str]) -> int:
    return 2 if len(labels) > 1 and max(map(len, labels)) <= 40 else 1


def _legend(
    place: "Figure | Axes", entries: Sequence[tuple[Any, str]], labels: Sequence[str], columns: int | None = None
) -> None:
    """Below the figure or, with `columns`, below one pair of axes."""
    labels = [textwrap.shorten(label, 60 if columns else 90, placeholder=" …") for label in labels]
    where: dict[str, Any] = (
        {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)} if columns else {"loc": "outside lower center"}
    )
    legend = place.legend(
        [handle for handle, _ in entries],
        [str(index) for index in range(len(entries))],
        ncols=columns or _legend_columns(labels),
        frameon=False,
        fontsize=8,
        **where,
    )
    # Set afterwards: the legend would leave out a label that begins with an underscore.
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_text(label)
