"""Where a manifest and what belongs to it lie: inside their repository, under names that are text."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tflite_guard import files
from tflite_guard.files import uris


def strays(path: str, data_roots: Sequence[str] = ()) -> str | None:
    """Where a link leads a file of a repository to, outside of that and of the data roots; None where it does not.

    A path may be given from anywhere, but a pull request can make a link of any file or folder of its own.
    """
    real = os.path.realpath(path)
    roots = (files.root_above(os.path.dirname(os.path.abspath(path))), *uris.folders(data_roots))
    inside = files.contained(real, roots)
    return None if inside else displayed(real)


def utf8(path: str) -> bool:
    """Whether a file's name is text, which reports and requests to children are."""
    return path.isascii() or not any("\ud800" <= character <= "\udfff" for character in path)


def displayed(text: str) -> str:
    """Text with bytes that are not UTF-8, as names of files may have, written as `\\xff`."""
    return text if utf8(text) else text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
