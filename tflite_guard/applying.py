"""`check --apply-remedy`: verified remedies of a finished check, written into the manifests that they are of."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

from tflite_guard.checking import filed
from tflite_guard.errors import ManifestError
from tflite_guard.files import write_atomically
from tflite_guard.manifest import jsontext, load
from tflite_guard.manifest.editing import line_of, patched
from tflite_guard.results import ManifestInfo, ModelResult, Remedy, Report, VariantResult, Verdict

NOTHING = "no remedy was verified, so there is nothing to apply"
AGAIN = "run the check again to see what the edited manifest gives"


@dataclass(frozen=True)
class _Mend:
    """A verified remedy with the variant that it is of."""

    model: ModelResult
    variant: VariantResult
    remedy: Remedy


def apply(report: Report, data_roots: Sequence[str] = (), allow_code: bool = False) -> list[str]:
    """Apply the first remedy of each variant that does not pass; gives what was done, in lines.

    Raises:
        ManifestError: a manifest can no longer be read.
        EvaluationError: a manifest cannot be written.
    """
    lines: list[str] = []
    for info, mends in groupby(_mends(report), lambda mend: mend.model.manifest):
        lines += _apply(info, list(mends), data_roots, allow_code)
    told = list(dict.fromkeys(lines)) or [NOTHING]
    return [*told, AGAIN] if any(line.startswith("applied") for line in told) else told


def _mends(report: Report) -> Iterator[_Mend]:
    for model in report.models:
        for variant in model.variants:
            if variant.verdict is not Verdict.PASS and variant.remedies and variant.remedies[0].verified:
                yield _Mend(model, variant, variant.remedies[0])


def _apply(info: ManifestInfo, mends: list[_Mend], data_roots: Sequence[str], allow_code: bool) -> Iterator[str]:
    data = jsontext.read(info.path, data_roots)
    if hashlib.sha256(data).hexdigest() != info.sha256:
        yield f"nothing applied to {info.path}: it has changed since it was checked; check it again"
        return
    edit = _Edit(info.path, data.decode(), data_roots, allow_code)
    for mend in mends:
        edit.add(mend)
    if edit.text.encode() != data:
        mode = os.stat(info.path).st_mode & 0o7777
        filed(info.path, partial(write_atomically, info.path, edit.text.encode(), mode=mode))
    # Only now, since a later edit can move an earlier one's line.
    yield from edit.told()


@dataclass
class _Edit:
    """A manifest's text on its way to the edited one."""

    path: str
    text: str
    data_roots: Sequence[str]
    allow_code: bool
    _applied: list[tuple[_Mend, str, str]] = field(default_factory=list)
    """With the JSON pointer of what was patched, and what else there is to say."""
    _refused: list[str] = field(default_factory=list)
    _set: dict[tuple[str, str], Any] = field(default_factory=dict)
    """What remedies have set so far, by JSON pointer and key."""

    def add(self, mend: _Mend) -> None:
        """Apply one remedy, unless the manifest would not be valid with it, or another one has set the same."""
        edited, target, patch, note = self._placed(mend)
        patches = {target: patch, **mend.remedy.also}
        sets = {(place, key): value for place, patch in patches.items() for key, value in patch.items()}
        other = next((one for one, value in sets.items() if self._set.get(one, value) != value), None)
        if other is not None:
            return self._refuse(
                mend, f'another variant\'s remedy sets "{other[1]}" of {other[0]} to another value; check again'
            )
        for place, patch in patches.items():
            edited = patched(edited, place, patch)
        try:
            load(self.path, data_roots=self.data_roots, allow_code=self.allow_code, content=edited.encode())
        except ManifestError as error:
            return self._refuse(mend, f"the manifest would not be valid: {error.problems[0].message}")
        self.text = edited
        self._set |= sets
        self._applied.append((mend, target, note))
        return None

    def told(self) -> Iterator[str]:
        """A line a remedy."""
        for mend, target, note in self._applied:
            line = line_of(self.text, target, next(iter(mend.remedy.patch), ""))
            yield f"applied: {mend.remedy.title} to {self.path}:{line}{note}"
        yield from self._refused

    def _refuse(self, mend: _Mend, why: str) -> None:
        name = f"{mend.model.name} / {mend.variant.name}"
        self._refused.append(f"not applied to {self.path}: {mend.remedy.title} (for {name}): {why}")

    def _placed(self, mend: _Mend) -> tuple[str, str, dict[str, Any], str]:
        """The text to edit, the JSON pointer and the patch, and what there is to say of it."""
        if mend.remedy.target:
            return self.text, mend.remedy.target, mend.remedy.patch, ""
        manifest = jsontext.parse(self.text.encode(), self.path).value
        place = _named(manifest["models"], mend.model.name)
        model, text, note = manifest["models"][place], self.text, ""
        variants = model.get("variants")
        if variants is None:
            # Written into `defaults`, it would change models that nobody has verified it for.
            variants = manifest["defaults"]["variants"]
            text = patched(text, f"/models/{place}", {"variants": variants})
            note = f"; {mend.model.name} now has variants of its own, copied from defaults"
        at = _named(variants, mend.variant.name)
        whole = {"name": variants[at], "quantization": variants[at]} if isinstance(variants[at], str) else {}
        return text, f"/models/{place}/variants/{at}", {**whole, **mend.remedy.patch}, note


def _named(entries: list[Any], name: str) -> int:
    """The place of the model or variant of a name; a variant's short form is its name."""
    return next(at for at, entry in enumerate(entries) if (entry if isinstance(entry, str) else entry["name"]) == name)
