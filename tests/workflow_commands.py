"""How GitHub's runner reads a step: workflow commands in its log, and the file of its outputs.

Follows the runner's own source (ActionCommand, ActionCommandManager, FileCommandManager).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

LEVELS = ("error", "warning", "notice")
COMMANDS = {
    *LEVELS,
    *("stop-commands", "set-env", "set-output", "save-state", "add-mask", "add-path", "add-matcher", "remove-matcher"),
    *("debug", "group", "endgroup", "echo"),
}


@dataclass(frozen=True)
class Command:
    """A workflow command that the runner obeys."""

    name: str
    properties: dict[str, str]
    message: str


def commands(log: str) -> Iterator[Command]:
    """The commands of a log that the runner obeys; every kind of line end that it knows ends a line."""
    token: str | None = None
    for line in re.split(r"\r\n|\r|\n", log):
        known = COMMANDS | ({token.lower()} if token is not None else set())
        command = _modern(line, known) or _old(line, known)
        if command is None:
            continue
        if token is not None:
            if command.name.lower() == token.lower():
                token = None
        elif command.name.lower() == "stop-commands":
            token = command.message
        else:
            yield command


def outputs(text: str) -> dict[str, str]:
    """Names and values of a file of outputs. Raises ValueError where the runner fails the step."""
    found: dict[str, str] = {}
    lines = iter(text.removesuffix("\n").split("\n") if text else ())
    for line in filter(None, lines):
        separator = re.search("=|<<", line)
        if separator is None:
            raise ValueError(f"invalid format {line!r}")
        name, rest = line[: separator.start()], line[separator.end() :]
        found[name] = rest if separator[0] == "=" else _until(rest, lines)
    return found


def _until(delimiter: str, lines: Iterator[str]) -> str:
    value: list[str] = []
    for line in lines:
        if line == delimiter:
            return "\n".join(value)
        value.append(line)
    raise ValueError(f"matching delimiter not found {delimiter!r}")


def _modern(line: str, known: set[str]) -> Command | None:
    """`::name key=value,key=value::message`, after white space."""
    text = _visible(line).lstrip()
    if not text.startswith("::") or (end := text.find("::", 2)) < 0:
        return None
    message = _unescaped(text[end + 2 :], "%0D\r", "%0A\n", "%25%")
    return _command(text[2:end], message, known, ",", "%0D\r", "%0A\n", "%3A:", "%2C,", "%25%")


def _old(line: str, known: set[str]) -> Command | None:
    """`##[name key=value;key=value]message`, anywhere in a line."""
    text = _visible(line)
    start = text.find("##[")
    if start < 0 or (end := text.find("]", start)) < 0:
        return None
    codes = ("%3B;", "%0D\r", "%0A\n", "%5D]", "%25%")
    return _command(text[start + 3 : end], _unescaped(text[end + 1 :], *codes), known, ";", *codes)


def _command(head: str, message: str, known: set[str], separator: str, *codes: str) -> Command | None:
    name, _, listed = head.partition(" ")
    if name.lower() not in known:
        return None
    pairs = (part.partition("=")[::2] for part in listed.strip().split(separator))
    # .NET leaves out empty parts, so `title==x` says `x` and `title=` says nothing.
    values = {key: value.lstrip("=") for key, value in pairs if key}
    return Command(name, {key: _unescaped(value, *codes) for key, value in values.items() if value}, message)


def _unescaped(text: str, *codes: str) -> str:
    """Replaces codes of three characters by the character after them, one kind after the other."""
    for code in codes:
        text = text.replace(code[:3], code[3:])
    return text


def _visible(line: str) -> str:
    """Without what .NET ignores when it compares text as people read it; a command may be hidden among that."""
    return "".join(character for character in line if unicodedata.category(character) != "Cf" and character != "\0")
