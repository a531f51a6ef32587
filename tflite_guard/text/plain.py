"""Text from files and libraries, made harmless wherever it is printed. Standard library only."""

from __future__ import annotations

import unicodedata

LONGEST_TEXT = 500


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


def _visible(character: str) -> str:
    if character in "\n\r\t":
        return " "
    # Cc control, Cf format (bidirectional controls, zero width), Cn unassigned (some of which XML forbids), Cs
    # surrogates, Zl and Zp line separators.
    return "�" if unicodedata.category(character) in ("Cc", "Cf", "Cn", "Cs", "Zl", "Zp") else character
