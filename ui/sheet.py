"""Small tables as inert HTML: words wrap, and on a narrow screen each row is a card, so that nothing is cut off."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

_NUMBER = re.compile(r"[+\-−–]?[\d.,]*( %)?")
_LINE = "1px solid color-mix(in srgb, currentColor 15%, transparent)"
# a container query, not a media query: a table in a column is narrow on a wide screen too
STYLE = f"""<style>
.sheet {{ container-type: inline-size; font-size: .9rem; }}
.sheet table {{ border-collapse: collapse; width: 100%; }}
.sheet th, .sheet td {{ text-align: left; vertical-align: top; padding: .3rem .8rem .3rem 0; overflow-wrap: break-word; }}
.sheet th {{ font-weight: 400; opacity: .72; }}
.sheet td {{ border-top: {_LINE}; }}
.sheet .number {{ text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }}
.sheet tr > :last-child {{ padding-right: 0; }}
.sheet td:first-child {{ white-space: nowrap; }}
@container (max-width: 34rem) {{
  .cards thead {{ display: none; }}
  .cards tr {{ display: block; padding: .4rem 0; border-top: {_LINE}; }}
  .cards td {{ display: flex; justify-content: space-between; gap: 1rem; padding: .1rem 0; border: 0; }}
  .cards td, .cards .number {{ text-align: right; white-space: normal; overflow-wrap: anywhere; }}
  .cards td:first-child {{ font-weight: 600; white-space: normal; text-align: left; }}
  .cards td:not(:first-child)::before {{ content: attr(data-label); opacity: .72; text-align: left; flex: none; }}
  .cards td:empty {{ display: none; }}
}}
</style>"""


@dataclass(frozen=True, slots=True)
class Inert:
    """HTML of our own making in a cell; what others wrote is escaped in it."""

    html: str


Cell = str | int | float | Inert | None


def sheet(rows: Sequence[Mapping[str, Cell]], *, key: str, cards: bool = True) -> str:
    """Return the table; columns are those of the first row, and None is a dash.

    Args:
        rows: column to value. Text is escaped; numbers, and text that is one, are drawn right of their column.
        key: the class ``sheet-KEY``, by which tests find it.
        cards: make cards of the rows where it is narrow; a table of few short columns needs none.
    """
    names = list(rows[0]) if rows else []
    numeric = {name for name in names if all(_is_number(row[name]) for row in rows)}

    def cell(tag: str, name: str, html: str) -> str:
        side = ' class="number"' if name in numeric else ""
        return f'<{tag}{side} data-label="{escape(name)}">{html}</{tag}>'

    head = "".join(cell("th", name, escape(name)) for name in names)
    body = "".join("<tr>" + "".join(cell("td", name, _html(row[name])) for name in names) + "</tr>" for row in rows)
    kind = "sheet cards" if cards else "sheet"
    return f'<div class="{kind} sheet-{key}"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def percent(share: float | None, *, places: int = 1) -> str:
    """Return a share from 0 to 1 in percent, or a dash where there is none."""
    return "–" if share is None else f"{100 * share:.{places}f} %"


def _is_number(value: Cell) -> bool:
    return value is None or isinstance(value, int | float) or (isinstance(value, str) and bool(_NUMBER.fullmatch(value)))


def _html(value: Cell) -> str:
    if isinstance(value, Inert):
        return value.html
    if isinstance(value, int):
        return f"{value:,}"
    return "–" if value is None else escape(str(value))
