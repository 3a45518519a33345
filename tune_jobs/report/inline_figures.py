"""Figures inside an HTML page: SVG in the page's colours, and the values that its script shows."""

import html
import re
from typing import Any

from tune_jobs.report.curves import Curve
from tune_jobs.report.figures import COLOURS
from tune_jobs.report.rendering import INK, PAPER, RULE, Drawing, Panel


def inline_svg(drawing: Drawing) -> str:
    """The SVG for a place inside an HTML page: ids made unique, colours taken from the page's own.

    The page defines the CSS variables `--ink`, `--rule` and `--line-1`, `--line-2`, … for the curves.
    """
    svg = drawing.svg[drawing.svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<title>.*?</title>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{drawing.name}-\1"', svg)
    svg = re.sub(r'href="#([^"]+)"', rf'href="#{drawing.name}-\1"', svg)
    svg = re.sub(r"url\(#([^)]+)\)", rf"url(#{drawing.name}-\1)", svg)
    lines = {colour: _line_variable(colour) for colour in COLOURS}
    for colour, variable in {INK: "var(--ink)", RULE: "var(--rule)", PAPER: "none", **lines}.items():
        svg = svg.replace(f": {colour}", f": {variable}")
    opening, rest = svg.split(">", 1)
    opening = re.sub(r'\s(width|height)="[^"]*"', "", opening)
    label = html.escape(f"{drawing.title}. {drawing.description}.")
    return f'{opening} role="img" aria-label="{label}">{rest}'


def _line_variable(colour: str) -> str:
    return f"var(--line-{COLOURS.index(colour) + 1})"


def hover_values(drawing: Drawing) -> dict[str, Any]:
    """What the page's script needs to show the values under the pointer; short names, for there are many numbers."""
    return {"size": drawing.size, "panels": [_panel(panel) for panel in drawing.panels]}


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "box": [round(edge, 1) for edge in panel.box],
        "x": [round(panel.x.offset, 3), panel.x.factor],
        "steps": panel.steps_per_epoch,
        "curves": [
            {
                "label": drawn.curve.label,
                "colour": _line_variable(drawn.colour),
                "unit": " %" if drawn.measure == "test-error" else "",
                "y": [drawn.y.kind, round(drawn.y.offset, 3), drawn.y.factor],
                "seeds": drawn.curve.seeds,
                "epochs": _epochs(drawn.curve),
                "mean": _rounded(drawn.curve.mean),
                **(
                    {"low": _rounded(drawn.curve.low), "high": _rounded(drawn.curve.high)}
                    if drawn.curve.has_band
                    else {}
                ),
            }
            for drawn in panel.curves
        ],
    }


def _epochs(curve: Curve) -> list[int] | int:
    """The epochs, or just how many if they are 1, 2, 3, …"""
    count = len(curve.epochs)
    return count if curve.epochs == list(range(1, count + 1)) else curve.epochs


def _rounded(values: list[float]) -> list[float]:
    return [float(f"{value:.4g}") for value in values]
