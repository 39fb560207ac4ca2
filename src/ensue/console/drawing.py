"""Drawings as SVG. Colours come from the style sheet, so that they are those of the reader's choice, light or dark."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from ensue.console.rendering import printable
from ensue.operations.flow.facts import State
from ensue.operations.flow.sequence import Published
from ensue.operations.topology import Flow

_LANE, _ROW, _TOP, _MARGIN, _NAME_CHARS = 220, 26, 40, 110, 30
#: More than these are only listed below: nobody reads a longer drawing.
DRAWN_MAX = 200
_CLASSES = {State.DONE: "done", State.SET_ASIDE: "bad"}
_BOX_WIDTH, _BOX_HEIGHT, _GAP = 180, 34, 26


def flow_drawing(events: Sequence[Published]) -> Markup:
    """A lane for each service, an event a row: from who published it to who handles it. A dot says what came of it."""
    events = events[:DRAWN_MAX]
    names = sorted({each.sender for each in events} | {one.service for each in events for one in each.reactions})
    at = {name: _MARGIN + number * _LANE for number, name in enumerate(names)}
    rows = [(event, reaction) for event in events for reaction in (event.reactions or (None,))]
    height, width = _TOP + (len(rows) + 1) * _ROW, 2 * _MARGIN + max(len(names) - 1, 0) * _LANE
    parts = [_head(width, height, f"{len(events)} events between {', '.join(names)}")]
    for name, x in at.items():
        parts.append(f'<line class="lane" x1="{x}" y1="{_TOP}" x2="{x}" y2="{height - 6}"/>')
        parts.append(_text(x, 22, name, "middle"))
    for number, (event, reaction) in enumerate(rows, 1):
        y = _TOP + number * _ROW
        begin = at[event.sender]
        end = begin if reaction is None else at[reaction.service]
        label = f"{event.number} {event.type.rpartition('.v')[0].rpartition('.')[2] or event.type}"
        if end == begin:
            parts.append(_text(begin + 10, y - 4, label))
        else:
            step = 1 if end > begin else -1
            parts.append(f'<line class="arrow" x1="{begin}" y1="{y}" x2="{end - 6 * step}" y2="{y}"/>')
            tail, tip = end - 14 * step, end - 6 * step
            parts.append(f'<polygon class="head" points="{tail},{y - 4} {tip},{y} {tail},{y + 4}"/>')
            parts.append(_text(begin + 8 * step, y - 4, label, "start" if step > 0 else "end"))
        state = "quiet" if reaction is None else _CLASSES.get(reaction.state, "pending")
        said = "nobody here handles it" if reaction is None else f"{reaction.service}: {reaction.state.value}"
        parts.append(f'<circle class="{state}" cx="{end}" cy="{y}" r="4"><title>{_escaped(said)}</title></circle>')
    return Markup("".join([*parts, "</svg>"]))


def topology_drawing(names: Sequence[str], flows: Sequence[Flow]) -> Markup:
    """Services in a column at the left as publishers, and at the right as subscribers; a line between two that have
    messages of one topic between them."""
    step = _BOX_HEIGHT + _GAP
    left, right = 10, 10 + _BOX_WIDTH + 260
    ys = {name: 16 + number * step for number, name in enumerate(names)}
    between: dict[tuple[str, str], list[str]] = {}
    for flow in flows:
        for sender in flow.begins:
            for reader in flow.subscribers:
                between.setdefault((sender, reader), []).append(flow.type.removeprefix(f"{flow.topic}."))
    height, width = 16 + len(names) * step, right + _BOX_WIDTH + 10
    parts = [_head(width, height, "Who publishes to whom")]
    for (sender, reader), types in sorted(between.items()):
        y1, y2 = (ys[each] + _BOX_HEIGHT // 2 for each in (sender, reader))
        line = f'<line class="arrow" x1="{left + _BOX_WIDTH}" y1="{y1}" x2="{right - 8}" y2="{y2}">'
        parts.append(f"{line}<title>{_escaped(f'{sender} to {reader}: ' + ', '.join(types))}</title></line>")
        parts.append(f'<polygon class="head" points="{right - 9},{y2 - 4} {right},{y2} {right - 9},{y2 + 4}"/>')
    for x, kind in ((left, "publishes"), (right, "handles")):
        for name, y in ys.items():
            parts.append(f'<rect class="box" x="{x}" y="{y}" width="{_BOX_WIDTH}" height="{_BOX_HEIGHT}" rx="4"/>')
            parts.append(_text(x + _BOX_WIDTH // 2, y + 21, name, "middle"))
        parts.append(_text(x + _BOX_WIDTH // 2, 11, kind, "middle", "quiet"))
    return Markup("".join([*parts, "</svg>"]))


def _head(width: int, height: int, title: str) -> str:
    return (
        f'<svg class="drawing" role="img" xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}"><title>{_escaped(title, 300)}</title>'
    )


def _text(x: int, y: int, text: str, anchor: str = "start", kind: str = "") -> str:
    of = f' class="{kind}"' if kind else ""
    return f'<text{of} x="{x}" y="{y}" text-anchor="{anchor}">{_escaped(text)}</text>'


def _escaped(text: str, chars_max: int = _NAME_CHARS * 3) -> str:
    return str(escape(printable(text, chars_max)))
