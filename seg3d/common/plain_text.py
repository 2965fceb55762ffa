"""Words from anywhere, made fit to be printed: no control characters, no endless lines.

A file's name, or what stands in a file, may hold what a terminal obeys.
"""

from __future__ import annotations

import unicodedata
from reprlib import Repr

# Characters of a line or a value, which two long paths stay below; a longer one loses its middle.
LONGEST_LINE = 300
# Lines of a message; further ones are counted.
MOST_LINES = 60


def printable(text: object, kept: str = "\n") -> str:
    """Text in which characters that print nothing are escaped, such as ``\\x1b``.

    Args:
        text: any; half characters, which stand for bytes that are no UTF-8, are escaped too.
        kept: control characters that stay what they are.
    """
    return "".join(
        one
        if one.isprintable() or one in kept or unicodedata.category(one) == "Zs"
        else one.encode("unicode_escape").decode()
        for one in str(text)
    )


def is_text(words: str) -> bool:
    """Whether there are whole characters only, which can be written to any file.

    Bytes of a file's name that are no UTF-8 are half characters.
    """
    try:
        words.encode()
    except UnicodeEncodeError:
        return False
    return True


def shortened(line: str, longest: int = LONGEST_LINE) -> str:
    """A line without its middle if it is longer."""
    if len(line) <= longest:
        return line
    half = longest // 2 - 3
    return f"{line[:half]} ... {line[-half:]}"


def message_of(text: str, longest: int = LONGEST_LINE) -> str:
    """Text fit for a message: printable, its lines and their number bounded."""
    lines = text.split("\n", MOST_LINES)
    if len(lines) > MOST_LINES:
        more = lines.pop().count("\n") + 1
        lines.append(f"... and {more} more line{'s' * (more > 1)}")
    # Escapes are longer than what they stand for, so a first cut spares the work.
    return "\n".join(shortened(printable(line[:10_000]), longest) for line in lines)


def echo_of(value: object) -> str:
    """A value that was given, in words that are never long, whatever it holds."""
    plain = isinstance(value, (dict, list, tuple, set, frozenset, bytes, int))
    text = _ECHO.repr(value) if plain else str(value)
    return message_of(text)


class _Echo(Repr):
    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write out longer ones.
        return repr(x) if x.bit_length() < 1000 else "a number of more than 300 digits"


_ECHO = _Echo()
_ECHO.maxlevel = 4
_ECHO.maxdict = _ECHO.maxlist = _ECHO.maxtuple = _ECHO.maxset = _ECHO.maxfrozenset = 12
_ECHO.maxstring = _ECHO.maxother = LONGEST_LINE
