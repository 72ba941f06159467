"""Charts as SVG text for the report: nothing is loaded, colours are variables of the page, every mark has a tooltip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from math import log10

WIDTH = 920
_LABEL = 150


def bars(rows: Sequence[tuple[str, int, Sequence[tuple[str, int]], str]], most: int) -> str:
    """Horizontal bars, one per row.

    Args:
        rows: name, number, parts inside the bar as (CSS class, number), and a remark right of it.
        most: the number that fills the width.
    """
    height, step = 22 * len(rows) + 4, 22
    room = WIDTH - _LABEL - 330
    marks = []
    for place, (name, number, parts, remark) in enumerate(rows):
        top = place * step + 2
        length = max(room * number / most, 1.5) if most and number else 0
        inside = "".join(
            f'<rect class="{kind}" x="{_LABEL}" y="{top + 3}" width="{room * part / most:.1f}" height="12" rx="2"/>'
            for kind, part in parts if most
        )  # fmt: skip
        marks.append(
            f"<g><title>{escape(f'{name}: {number:,} {remark}')}</title>"
            f'<text class="name" x="{_LABEL - 10}" y="{top + 13}">{escape(name)}</text>'
            f'<rect class="base" x="{_LABEL}" y="{top}" width="{length:.1f}" height="18" rx="3"/>{inside}'
            f'<text x="{_LABEL + length + 8:.1f}" y="{top + 13}"><tspan class="strong">{number:,}</tspan>'
            f'<tspan class="dim" dx="8">{escape(remark)}</tspan></text></g>'
        )
    return _svg(height, "".join(marks), "horizontal bars")


def columns(days: Sequence[str], series: Mapping[str, Sequence[int]]) -> str:
    """Stacked columns, one per day; series get the colours c0, c1 … in their order."""
    totals = [sum(values[place] for values in series.values()) for place in range(len(days))]
    top, floor, left = _nice(max(totals, default=0)), 220, 46
    width = (WIDTH - left - 8) / max(len(days), 1)
    parts = [_grid(top, floor, left)]
    for place, day in enumerate(days):
        x, y = left + place * width, float(floor)
        told = ", ".join(f"{name} {values[place]}" for name, values in series.items() if values[place])
        rects = ""
        for number, values in enumerate(series.values()):
            tall = (floor - 16) * values[place] / top
            y -= tall
            if tall:
                rects += (
                    f'<rect class="c{number}" x="{x + 1:.1f}" y="{y:.1f}" width="{width - 2:.1f}" height="{tall:.1f}"/>'
                )
        parts.append(f"<g><title>{escape(f'{day}: {totals[place]} ({told})')}</title>{rects}</g>")
        if place % 7 == 0:
            parts.append(f'<text class="dim" x="{x:.1f}" y="{floor + 18}">{escape(day[5:])}</text>')
    return _svg(floor + 26, "".join(parts), "messages per day")


def histogram(values: Sequence[int], peak: float | None, kind: str) -> str:
    """24 columns, one per hour of the day; `peak` marks an hour with a line."""
    wide, floor = 430, 130
    top = max(values, default=0) or 1
    width = (wide - 10) / 24
    total = sum(values)
    parts = []
    for hour, value in enumerate(values):
        tall = (floor - 12) * value / top
        parts.append(
            f"<g><title>{hour:02d}:00 – {value:,} opens, {100 * value / (total or 1):.1f} %</title>"
            f'<rect class="{kind}" x="{5 + hour * width + 1:.1f}" y="{floor - tall:.1f}" width="{width - 2:.1f}" '
            f'height="{tall:.1f}" rx="1.5"/></g>'
        )
    for hour in (0, 6, 12, 18, 23):
        parts.append(f'<text class="dim mid" x="{5 + (hour + 0.5) * width:.1f}" y="{floor + 16}">{hour}</text>')
    if peak is not None:
        x = 5 + (peak % 24) * width
        parts.append(f'<line class="peak" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{floor}"/>')
    return _svg(floor + 22, "".join(parts), "opens by hour", wide)


def share_bar(parts: Sequence[tuple[str, str, int]]) -> str:
    """One bar divided by shares: (CSS class, name, number)."""
    total = sum(number for _, _, number in parts) or 1
    x, marks = 0.0, []
    for kind, name, number in parts:
        length = 600 * number / total
        if number:
            marks.append(
                f"<g><title>{escape(f'{name}: {number:,}')}</title>"
                f'<rect class="{kind}" x="{x:.1f}" y="0" width="{max(length - 1.5, 1):.1f}" height="18" rx="2"/></g>'
            )
        x += length
    return _svg(18, "".join(marks), "shares", 600)


def _grid(top: int, floor: int, left: int) -> str:
    lines = []
    for part in range(5):
        y = floor - (floor - 16) * part / 4
        lines.append(f'<line class="grid" x1="{left}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<text class="dim end" x="{left - 8}" y="{y + 4:.1f}">{top * part / 4:,.0f}</text>')
    return "".join(lines)


def _nice(most: int) -> int:
    """A round number at or above the greatest value that four grid lines divide."""
    if most <= 4:
        return 4
    unit = 10 ** int(log10(most))
    tops = (unit * factor / 10 for factor in (10, 12, 16, 20, 24, 32, 40, 48, 60, 80, 120))
    return next(int(top) for top in tops if top >= most and top % 4 == 0)


def _svg(height: float, inside: str, label: str, width: int = WIDTH) -> str:
    return f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{escape(label)}">{inside}</svg>'
