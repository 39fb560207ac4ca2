"""Why a message failed, in words that lead to the place: the handler, the error, and the lines of the user's code."""

from __future__ import annotations

import linecache
import os
import traceback
from types import FrameType, TracebackType

from ensue.errors import EnsueError
from ensue.texts import said_by

_INSIDE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_ENGINE = os.path.join(_INSIDE, "engine", "")
#: Between us and a handler that is a plain function.
_THREADS = tuple(os.path.join(os.path.dirname(os.__file__), each, "") for each in ("asyncio", "concurrent"))
_MESSAGE_MAX = 4000
_TRACE_MAX = 2000
_FRAMES_MAX = 12
_CAUSES_MAX = 3

_Frame = tuple[str, int, str]


def message_of(error: BaseException, *, values: bool = False) -> str:
    """What the error says, at most 4,000 characters. values: also those that SQLAlchemy and pydantic quote."""
    return said_by(error, values=values)[:_MESSAGE_MAX]


def trace_of(error: BaseException, *, values: bool = False) -> str:
    """File, line, function and source line of each call from the user's code on, then those of its causes.

    Calls inside Ensue are left out. An error that arose there is a place to look too, so its last calls are shown,
    unless it is an error that Ensue raises to say what is wrong. At most 2,000 characters, no value of any variable.
    """
    frames = _frames(error.__traceback__)
    shown = _of_user(frames) or ([] if isinstance(error, EnsueError) else frames[-3:])
    lines = _lines(shown)
    seen = {id(error)}
    cause = _cause(error)
    while cause is not None and id(cause) not in seen and len(seen) <= _CAUSES_MAX:
        seen.add(id(cause))
        if beneath := _of_user(_frames(cause.__traceback__)):
            said = message_of(cause, values=values).partition("\n")[0][:200]
            lines += [f"  caused by {type(cause).__qualname__}: {said}", *_lines(beneath)]
        cause = _cause(cause)
    return _shortened(lines)


def lines_of_thread(frame: FrameType | None) -> str:
    """What a thread is doing now, as `trace_of` shows it; empty when no line of the user's is in it."""
    stack = [] if frame is None else traceback.extract_stack(frame)
    called = [(each.filename, each.lineno or 0, each.name) for each in stack]
    # Before the engine's first call is whoever began the thread or the event loop.
    first = next((at for at, each in enumerate(called) if each[0].startswith(_ENGINE)), len(called))
    return _shortened(_lines(_of_user(called[first:])))


def _cause(error: BaseException) -> BaseException | None:
    return error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _frames(traceback: TracebackType | None) -> list[_Frame]:
    found = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        found.append((code.co_filename, traceback.tb_lineno, code.co_name))
        traceback = traceback.tb_next
    return found


def _of_user(frames: list[_Frame]) -> list[_Frame]:
    outside = [each for each in frames if not each[0].startswith(_INSIDE)]
    first = next((at for at, each in enumerate(outside) if not each[0].startswith(_THREADS)), len(outside))
    return outside[first:]


def _lines(frames: list[_Frame]) -> list[str]:
    left_out = len(frames) - _FRAMES_MAX
    if left_out > 0:
        half = _FRAMES_MAX // 2
        return [*_lines(frames[:half]), f"  ... {left_out} calls ...", *_lines(frames[-half:])]
    lines = []
    for file, line, function in frames:
        lines.append(f'  File "{file}", line {line}, in {function}')
        linecache.checkcache(file)
        if source := linecache.getline(file, line).strip():
            lines.append(f"    {source}")
    return lines


def _shortened(lines: list[str]) -> str:
    """The first and the last lines, with what is between left out when it is too much."""
    cut = [line if len(line) <= 300 else line[:297] + "..." for line in lines]
    if len("\n".join(cut)) <= _TRACE_MAX:
        return "\n".join(cut)
    room = _TRACE_MAX - len("\n  ...\n")
    head: list[str] = []
    tail: list[str] = []
    while cut:
        line = cut.pop(0 if len(head) <= len(tail) else -1)
        room -= len(line) + 1
        if room < 0:
            break
        if len(head) <= len(tail):
            head.append(line)
        else:
            tail.insert(0, line)
    return "\n".join([*head, "  ...", *tail])
