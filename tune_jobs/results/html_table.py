"""A table as HTML, for notebooks."""

from collections.abc import Iterable, Sequence
from html import escape


def html_table(heading: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table whose texts are shown as they are; all but the first column to the right."""
    align = ("left", *("right" for _ in heading[1:]))

    def line(tag: str, texts: Sequence[str]) -> str:
        cells = (
            f'<{tag} style="text-align:{side}">{escape(text)}</{tag}>' for side, text in zip(align, texts, strict=True)
        )
        return f"<tr>{''.join(cells)}</tr>"

    title = f'<caption style="text-align:left"><b>{escape(caption)}</b></caption>' if caption else ""
    body = "".join(line("td", row) for row in rows)
    return f"<table>{title}<thead>{line('th', heading)}</thead><tbody>{body}</tbody></table>"
