"""Reading JSON that may be anything."""

from __future__ import annotations

from typing import Any


def at(value: object, *keys: str) -> Any:
    """What lies at a path of keys; None where something on the way is not an object."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def same_name(one: object, other: str) -> bool:
    """Logins are the same whatever their case."""
    return isinstance(one, str) and one.casefold() == other.casefold()
