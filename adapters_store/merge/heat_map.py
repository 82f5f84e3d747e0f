"""The report of a merge as a picture: an SVG with a row for each layer, a column for each kind of module."""

from collections.abc import Callable, Sequence
from html import escape

from polyad.adapters_store.merge.report import ModuleReport, Report
from polyad.adapters_store.merge.setting import layer_of

_CELL = 26
_LEFT = 60
_TOP = 96
_GAP = 70
_COLD, _HOT = (247, 251, 255), (103, 0, 13)

_PANELS: Sequence[tuple[str, Callable[[ModuleReport], float]]] = (
    ("sign conflict", lambda one: one.conflict),
    ("mean cosine", lambda one: sum(one.cosines) / len(one.cosines) if one.cosines else 0.0),
    ("relative error", lambda one: one.relative_error),
)


def heat_map(report: Report) -> str:
    """An SVG document; darker is more, each panel from 0 to its own largest value, which it names."""
    cells = {(layer_of(one.module) or 0, _kind(one.module)): one for one in report.modules}
    layers, kinds = sorted({layer for layer, _ in cells}), sorted({kind for _, kind in cells})
    width = len(kinds) * _CELL
    parts = [_text(_LEFT, 20, f"{report.method} ({report.variant}) of {', '.join(report.inputs)}", 14)]
    for place, (title, value) in enumerate(_PANELS):
        left = _LEFT + place * (width + _GAP)
        most = max((abs(value(one)) for one in cells.values()), default=0.0)
        parts.append(_text(left, 40, f"{title}, up to {most:.3g}", 12))
        parts += [_text(left + column * _CELL + 16, _TOP - 6, kind, 10, -60) for column, kind in enumerate(kinds)]
        for row, layer in enumerate(layers):
            top = _TOP + row * _CELL
            parts.append(_text(left - 24, top + 17, str(layer), 10))
            for column, kind in enumerate(kinds):
                if (layer, kind) in cells:
                    found = value(cells[layer, kind])
                    parts.append(_cell(left + column * _CELL, top, found, most, f"{layer} {kind}: {found:.4f}"))
    size = f'width="{_LEFT + len(_PANELS) * (width + _GAP)}" height="{_TOP + len(layers) * _CELL + 20}"'
    body = "\n".join(parts)
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">\n{body}\n</svg>\n'


def _cell(left: int, top: int, value: float, most: float, title: str) -> str:
    share = abs(value) / most if most else 0.0
    colour = ",".join(str(round(cold + (hot - cold) * share)) for cold, hot in zip(_COLD, _HOT, strict=True))
    box = f'x="{left}" y="{top}" width="{_CELL - 1}" height="{_CELL - 1}"'
    return f'<rect {box} fill="rgb({colour})"><title>{escape(title)}</title></rect>'


def _text(left: int, top: int, text: str, size: int, turned: int = 0) -> str:
    turn = f' transform="rotate({turned} {left} {top})"' if turned else ""
    return f'<text x="{left}" y="{top}" font-size="{size}"{turn}>{escape(text)}</text>'


def _kind(module: str) -> str:
    parts = [part for part in module.split(".") if part not in ("weight",)]
    return parts[-2] if parts[-1] == "bias" and len(parts) > 1 else parts[-1]
