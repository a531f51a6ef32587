"""What to call the models of a run, of which manifests may have several of one name."""

from __future__ import annotations

from collections.abc import Sequence

from tflite_guard.results import ManifestInfo
from tflite_guard.text.plain import plain

LONGEST_PLACE = 50
"""Of a title, where the end of a path says most and the name comes after it."""


def titles(models: Sequence[tuple[str, ManifestInfo]]) -> list[str]:
    """A model's name and manifest to its name, after its manifest's place where others have that name too."""
    named = [plain(name) for name, _ in models]
    called = list(named)
    alike: dict[str, list[int]] = {}
    for index, name in enumerate(named):
        alike.setdefault(name, []).append(index)
    for name, same in alike.items():
        if len(same) == 1:
            continue
        for index, place in zip(same, _places([models[index][1] for index in same]), strict=True):
            called[index] = f"{place}: {name}" if place else name
    return called


def _places(manifests: Sequence[ManifestInfo]) -> list[str]:
    """The shortest that tells manifests apart: folders, else paths; nothing where neither does."""
    folders = [one.repository_path.rpartition("/")[0] for one in manifests]
    for places in (folders, [one.repository_path for one in manifests], [one.path for one in manifests]):
        shown = [_end_of(place) for place in places]
        if all(shown) and len(set(shown)) == len(shown):
            return shown
    return [""] * len(manifests)


def _end_of(path: str) -> str:
    path = plain(path, max(len(path), 1))
    return path if len(path) <= LONGEST_PLACE else "…" + path[1 - LONGEST_PLACE :]
