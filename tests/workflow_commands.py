"""How GitHub's runner reads a step: workflow commands in its log, and the file of its outputs."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A command that the runner obeys."""

    name: str
    properties: dict[str, str]
    message: str


def read_log(log: str) -> list[Command]:
    """The commands of a log, in both forms that the runner knows; none between stop-commands and its token."""
    found: list[Command] = []
    token: str | None = None
    for line in log.splitlines():
        command = _modern(line) or _old(line)
        if command is None:
            continue
        if token is not None:
            token = None if command.name == token else token
            continue
        if command.name == "stop-commands":
            token = command.message
        found.append(command)
    assert token is None, "commands were stopped and never taken up again"
    return found


def outputs_of(text: str) -> dict[str, str]:
    """Names and values of a file of outputs."""
    found: dict[str, str] = {}
    lines = iter(text.splitlines())
    for line in lines:
        if "<<" in line and ("=" not in line or line.index("<<") < line.index("=")):
            name, delimiter = line.split("<<", 1)
            value = []
            for part in lines:
                if part == delimiter:
                    break
                value.append(part)
            else:
                raise AssertionError(f"no delimiter ends {name}")
            found[name] = "\n".join(value)
        else:
            name, found[name] = line.split("=", 1)
    return found


def _modern(line: str) -> Command | None:
    match = re.match(r"\s*::([^\s:]+)(?: ([^:]*))?::(.*)$", line, re.DOTALL)
    return match and Command(match[1], _properties(match[2] or "", ",", True), _decoded(match[3], {}))


def _old(line: str) -> Command | None:
    match = re.search(r"##\[([^\s\]]+)(?: ([^\]]*))?\](.*)$", line, re.DOTALL)
    return match and Command(match[1], _properties(match[2] or "", ";", False), _decoded(match[3], {}))


def _properties(text: str, separator: str, modern: bool) -> dict[str, str]:
    extra = {"%3A": ":", "%2C": ","} if modern else {"%3B": ";", "%5D": "]"}
    pairs = (part.split("=", 1) for part in text.split(separator) if "=" in part)
    return {name.strip(): _decoded(value, extra) for name, value in pairs}


def _decoded(text: str, extra: dict[str, str]) -> str:
    for code, character in {"%0D": "\r", "%0A": "\n", **extra, "%25": "%"}.items():
        text = text.replace(code, character)
    return text
