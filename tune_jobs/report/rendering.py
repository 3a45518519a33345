"""One figure, drawn once and written as SVG and PNG, with what a page needs to show its values."""

import io
import math
import warnings
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from tune_jobs.report.curves import Curve, Measure, steps_per_epoch
from tune_jobs.report.summary import TableSummary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, RULE, PAPER = "#24292f", "#d0d7de", "#fffffe"

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "resnet-dist",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
    "font.size": 9.0,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "figure.facecolor": PAPER,
    "grid.color": RULE,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class Scale:
    """How a value becomes a coordinate of the SVG: offset + factor * value, or * log10(value)."""

    kind: Literal["linear", "log"]
    offset: float
    factor: float


@dataclass(frozen=True)
class DrawnCurve:
    """A line of a figure, and where to find its points."""

    curve: Curve
    measure: Measure
    colour: str
    y: Scale


@dataclass(frozen=True)
class Panel:
    """One pair of axes in a figure."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom, in the SVG's coordinates."""
    x: Scale
    """Of epochs."""
    steps_per_epoch: float | None
    curves: tuple[DrawnCurve, ...]


@dataclass(frozen=True, repr=False)
class Drawing:
    """One figure in both formats."""

    name: str
    """Of its files, without their endings."""
    title: str
    description: str
    """What a reader who cannot see it should know."""
    svg: str
    png: bytes
    size: tuple[float, float]
    """Width and height in the SVG's coordinates."""
    panels: tuple[Panel, ...]

    def to_html(self) -> str:
        """An image that needs no file."""
        label = escape(f"{self.title}. {self.description}.")
        return (
            f'<img alt="{label}" width="{self.size[0]:.0f}" src="data:image/png;base64,{b64encode(self.png).decode()}">'
        )

    def __repr__(self) -> str:
        return f"<figure {self.name}>"

    def _repr_html_(self) -> str:
        return self.to_html()


@dataclass(frozen=True)
class Painted:
    """What has been drawn on a pair of axes."""

    table: TableSummary
    measure: Measure
    lines: list[tuple[Curve, Any]]
    entries: list[tuple[Any, str]]
    """Of the legend."""


def render(
    name: str,
    title: str,
    description: str,
    size: tuple[float, float],
    paint: Callable[["Figure"], list[tuple["Axes", Painted]]],
) -> Drawing:
    """Both files of the figure that `paint` draws on a canvas of this size, in inches."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        # A label in a script that the font lacks shows as boxes in the PNG and correctly in the SVG.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        painted = paint(figure)
        svg, png = io.StringIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Title": title})
        figure.set_layout_engine(None)  # the layout is there now, and computing it takes most of the time
        figure.savefig(png, format="png", dpi=150, metadata={"Software": None, "Title": title})
        points = (72 * size[0], 72 * size[1])
        panels = tuple(_panel(axes, drawn, points) for axes, drawn in painted)
    return Drawing(name, title, description, svg.getvalue(), png.getvalue(), points, panels)


def _panel(axes: "Axes", painted: Painted, size: tuple[float, float]) -> Panel:
    """Where the curves lie, measured from what was drawn: two points give each scale."""
    width, height = size
    place = axes.get_position()
    box = (place.x0 * width, (1 - place.y1) * height, place.x1 * width, (1 - place.y0) * height)
    left, right = axes.get_xlim()
    bottom, top = axes.get_ylim()
    x_factor = (box[2] - box[0]) / (right - left)
    is_log = axes.get_yscale() == "log"
    low, high = (math.log10(bottom), math.log10(top)) if is_log else (bottom, top)
    y_factor = (box[1] - box[3]) / (high - low)
    y = Scale("log" if is_log else "linear", box[3] - y_factor * low, y_factor)
    return Panel(
        box,
        Scale("linear", box[0] - x_factor * left, x_factor),
        steps_per_epoch(painted.table),
        tuple(DrawnCurve(curve, painted.measure, str(line.get_color()), y) for curve, line in painted.lines),
    )
