"""Text from files and libraries, made harmless wherever it is printed. Standard library only."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from itertools import count, islice

LONGEST_TEXT = 500
MOST_NAMED = 16
MOST_COMPARED = 500
LONGEST_NAME = 200
LONGEST_FILE_NAME = 120
"""Of the 255 that file systems allow, so that endings find room."""


def plain(text: str, longest: int = LONGEST_TEXT) -> str:
    """One line without control, invisible or direction characters, of limited length.

    Names come from files that a pull request can change, and a terminal, a log and a page obey such characters.
    """
    if len(text) <= longest and text.isprintable():
        return text
    kept = "".join(_visible(character) for character in text[: longest + 1])
    return kept if len(kept) <= longest else kept[: longest - 1] + "…"


def logged(line: str) -> str:
    """A line for standard output or error, where GitHub's runner looks for commands.

    It obeys `::command::` at the start of a line, after white space, and the older `##[command]` anywhere.
    """
    line = line.replace("##[", "# #[")
    return f": :{line.lstrip()[2:]}" if line.lstrip().startswith("::") else line


def unobeyed(markup: str) -> str:
    """HTML or XML for standard output, in which that runner finds no `##[` and a reader sees the same."""
    return markup.replace("##[", "##&#91;")


def file_names(texts: Iterable[str]) -> list[str]:
    """A file's name for each text, all different, also where letters of either case are the same.

    Names hold ASCII letters, digits, `.`, `_` and `-`, do not begin with a dot or hyphen, and are of limited length.
    """
    names: list[str] = []
    taken: set[str] = set()
    for text in texts:
        kept = re.sub(r"[^A-Za-z0-9._-]+", "_", text).lstrip(".-")[:LONGEST_FILE_NAME] or "_"
        name = next(one for more in count(1) if (one := kept if more == 1 else f"{kept}-{more}").lower() not in taken)
        taken.add(name.lower())
        names.append(name)
    return names


def _visible(character: str) -> str:
    if character in "\n\r\t":
        return " "
    # Cc control, Cf format (bidirectional controls, zero width), Cn unassigned (some of which XML forbids), Cs
    # surrogates, Zl and Zp line separators.
    return "�" if unicodedata.category(character) in ("Cc", "Cf", "Cn", "Cs", "Zl", "Zp") else character


def nearest(name: str, known: Iterable[str], most: int) -> list[str]:
    """The names that are like a name, the likeliest first. Names come from files: long ones are not compared."""
    from difflib import get_close_matches

    if len(name) > LONGEST_NAME:
        return []
    short = (one for one in islice(known, MOST_COMPARED) if len(one) <= LONGEST_NAME)
    return get_close_matches(name, list(short), n=most)


def instead(name: str, known: Collection[str], what: str) -> str:
    """The end of a message about a name that there is not: a near one, and `what` with those that there are."""
    near = nearest(name, known, 1)
    start = f"did you mean {near[0]!r}? {what[:1].upper()}{what[1:]}" if near else what
    first = ", ".join(map(repr, islice(known, MOST_NAMED)))
    return f"; {start} {first}{', …' if len(known) > MOST_NAMED else ''}"
