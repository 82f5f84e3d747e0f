"""Bars in groups as an SVG, without a library."""

from collections.abc import Mapping, Sequence
from html import escape

_WIDTH, _HEIGHT, _TOP, _LEFT, _BOTTOM = 460, 260, 48, 56, 40
_COLOURS = ("#9aa5b1", "#3b82c4", "#e08a2e", "#3f9d6b")
_TEXT = 'font-family="sans-serif" font-size="11" fill="#222"'


def bars(panels: Mapping[str, Mapping[str, Sequence[float]]], groups: Sequence[str]) -> str:
    """One panel beside the other; each has, for every series, one value for every group."""
    names = list(next(iter(panels.values())))
    parts = [_panel(title, series, groups, index * _WIDTH) for index, (title, series) in enumerate(panels.items())]
    width, height = len(panels) * _WIDTH, _HEIGHT + _TOP + _BOTTOM
    legend = "".join(
        f'<rect x="{_LEFT + 130 * i}" y="8" width="11" height="11" fill="{_COLOURS[i]}"/>'
        f'<text x="{_LEFT + 16 + 130 * i}" y="18" {_TEXT}>{escape(name)}</text>'
        for i, name in enumerate(names)
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    ground = f'<rect width="{width}" height="{height}" fill="#fff"/>'
    return "\n".join([head, ground, legend, *parts, "</svg>", ""])


def _panel(title: str, series: Mapping[str, Sequence[float]], groups: Sequence[str], x: int) -> str:
    top = max(value for values in series.values() for value in values) * 1.1 or 1.0
    base = _TOP + _HEIGHT
    room = (_WIDTH - _LEFT - 12) / len(groups)
    wide = room * 0.8 / len(series)
    parts = [f'<text x="{x + _LEFT}" y="{_TOP - 8}" {_TEXT} font-weight="bold">{escape(title)}</text>']
    for tick in range(5):
        y = base - _HEIGHT * tick / 4
        parts.append(f'<line x1="{x + _LEFT}" x2="{x + _WIDTH - 12}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{x + _LEFT - 6}" y="{y + 4:.1f}" {_TEXT} text-anchor="end">{top * tick / 4:.3g}</text>')
    for group, name in enumerate(groups):
        start = x + _LEFT + room * (group + 0.1)
        middle = x + _LEFT + room * (group + 0.5)
        parts.append(f'<text x="{middle:.1f}" y="{base + 18}" {_TEXT} text-anchor="middle">{escape(name)}</text>')
        for index, values in enumerate(series.values()):
            high = _HEIGHT * values[group] / top
            box = f'x="{start + wide * index:.1f}" y="{base - high:.1f}" width="{wide * 0.92:.1f}" height="{high:.1f}"'
            parts.append(f'<rect {box} fill="{_COLOURS[index]}"/>')
    return "\n".join(parts)
