"""What bash completes is whole again: it cuts `shop.orders:orders` at the colon, and `--by=ann` at the equals sign.

bash hands over the words of a line as COMP_WORDBREAKS cuts them, and puts what it is given in the place of the last
piece alone. So the pieces are joined here before they are read, and the answers lose what is in the line already. That
is what bash-completion's `__ltrimcolons` does in scripts; done on this side, it needs no other script, and holds for
one that was installed before.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, MutableMapping

_ASKS, _WORDS, _AT = "_ENSUE_COMPLETE", "COMP_WORDS", "COMP_CWORD"
#: A word of its own, where bash has cut at it.
_CUT = re.compile("[:=]+")


def joined(words: list[str], at: int) -> tuple[list[str], int, str]:
    """Return the words as they were typed, which of them is completed, and what of it bash does not replace.

    >>> joined(["ensue", "status", "shop", ":", "or"], 4)
    (['ensue', 'status', 'shop:or'], 2, 'shop:')
    """
    whole: list[str] = []
    glued, kept, now = False, "", 0
    for number, word in enumerate(words[: at + 1]):
        cut = _CUT.fullmatch(word) is not None
        if whole and (glued or cut):
            kept = whole[-1] + (word if cut else "")
            whole[-1] += word
        else:
            whole.append(word)
            kept = ""
        glued, now = cut and number > 0, len(whole) - 1
    return whole, now, kept.rpartition("=")[2] if kept.endswith(":") else ""


@contextlib.contextmanager
def whole_words(environment: MutableMapping[str, str]) -> Iterator[None]:
    """In this block the command line finds whole words, where bash asks it; what it prints is what bash wants."""
    words, at = environment.get(_WORDS, "").split("\n"), environment.get(_AT, "")
    if environment.get(_ASKS) != "complete_bash" or not at.isdigit() or int(at) >= len(words):
        yield
        return
    whole, now, kept = joined(words, int(at))
    environment[_WORDS], environment[_AT] = "\n".join(whole), str(now)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        for line in printed.getvalue().splitlines():
            print(line.removeprefix(kept))
