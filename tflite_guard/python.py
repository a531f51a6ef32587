"""The Python interface: `check`, `why` and `compare`, and a report that notebooks and pytest show."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Self

import msgspec

from tflite_guard import checking, results, saving
from tflite_guard.errors import UsageError
from tflite_guard.results import ModelResult
from tflite_guard.run.jobs import Options
from tflite_guard.vocabulary import DIAGNOSE, LONGEST_TIMEOUT, MOST_SHARDS, DiagnoseUse

if TYPE_CHECKING:
    from tflite_guard.asking import Explanation
    from tflite_guard.manifest.types import Manifest

Path = str | os.PathLike[str]
LONGEST_REPR = 240
"""Characters; pytest cuts what is longer in the middle."""


class Report(results.Report, frozen=True):
    """A finished report, which shows itself as the command line and the pull request do.

    `report[model][variant][metric]` looks results up by name, and iterating gives the models' names.
    """

    @classmethod
    def of(cls, report: results.Report) -> Self:
        """The same report."""
        return cls(**msgspec.structs.asdict(report))

    @classmethod
    def read(cls, path: Path) -> Self:
        """The report of a `report.json`. Raises UsageError where that cannot be read or is none."""
        from tflite_guard.reports.json import read

        return cls.of(read(os.fspath(path)))

    def __getitem__(self, name: str) -> ModelResult:
        """The model of a name; of several in as many manifests, of the name that reports have, such as `a: digits`."""
        from tflite_guard.reports.wording import titles

        called = titles(self)
        by_title = {called[id(model)]: model for model in self.models}
        named = [model for model in self.models if model.name == name]
        if name in by_title or len(named) == 1:
            return by_title.get(name) or named[0]
        if named:
            listed = " or ".join(repr(called[id(model)]) for model in named)
            raise KeyError(f"several models are called {name!r}; say {listed}")
        raise results.missing("the report", "model", name, by_title)

    def __iter__(self) -> Iterator[str]:
        from tflite_guard.reports.wording import titles

        return iter(titles(self).values())

    def to_rows(self) -> list[dict[str, Any]]:
        """A flat dictionary for each metric, for `pandas.DataFrame`; docs/python.md says what the keys are."""
        from tflite_guard.reports.rows import rows

        return rows(self)

    def __repr__(self) -> str:
        """In a line, of which pytest shows all where a report is asserted."""
        from tflite_guard.reports.opening import brief

        head, tail = f"<Report {self.verdict.value}: ", ">"
        return head + brief(self, LONGEST_REPR - len(head + tail)) + tail

    def __str__(self) -> str:
        """As the terminal shows it, without colours."""
        from tflite_guard.reports.terminal import shown

        return shown(self, unfolding="report[MODEL] holds").rstrip("\n")

    def _repr_html_(self) -> str:
        from tflite_guard.reports.markdown import render

        return render(self, rest="The report itself holds everything.")


def check(
    manifest: Path | Sequence[Path] = (),
    *,
    models: str | Sequence[str] = (),
    variants: str | Sequence[str] = (),
    cache_dir: Path | None = None,
    no_cache: bool = False,
    jobs: int | None = None,
    timeout: float = 3600.0,
    data_roots: Path | Sequence[Path] = (),
    offline: bool = False,
    allow_code: bool = False,
    baseline: Path | None = None,
    diagnose: DiagnoseUse = "auto",
    save_operator: Path | None = None,
    shard: tuple[int, int] | None = None,
    scheduler: str | None = None,
    costs: Path | None = None,
) -> Report:
    """Check every model of some manifests and give the report that the command line renders.

    No `if __name__ == "__main__"` guard is needed: models run in processes of their own.

    Args:
        manifest: one path or several; a folder means the manifest in it, and globs are expanded. Empty, as on the
            command line, means `tflite-guard.json` here, else every one that git tracks below.
        models: glob patterns of the models to check; empty means all.
        variants: glob patterns of the variants to check; empty means all.
        cache_dir: folder for results that later runs may take; None means the command line's, the user's cache folder.
        no_cache: take nothing from earlier runs and keep nothing.
        jobs: models at a time; None chooses by the number of cores.
        timeout: seconds that a model may take.
        data_roots: folders outside the repository, and URIs, below which the manifests may name files.
        offline: fetch nothing; files that are named by URI are taken from the cache.
        allow_code: run Python named by the manifests, Lambda layers and graphs that touch files.
        baseline: a file to compare one manifest with, `off`, or None for what is recorded beside each.
        diagnose: look for the cause of what does not pass (`auto`), of everything (`always`), or of nothing (`never`).
        save_operator: folder for the first operator that is wrong of each diagnosed variant, `MODEL-VARIANT/` each.
        shard: which of how many parts to check, from (1, n); `tflite-guard merge` makes one report of all.
        scheduler: a Dask cluster's, such as `tcp://10.0.0.5:8786`, whose workers do the work.
        costs: the report.json of an earlier run, by whose times the parts are made even.

    Raises:
        ManifestError: a manifest is invalid; holds every problem with its line and column.
        UsageError: an argument means nothing, a pattern matches nothing, no manifest is found, the baseline file
            cannot be read, or a cluster's worker has other versions.
        EvaluationError: the run cannot be done at all, a cluster is lost, or an operator's files cannot be written.
    """
    if diagnose not in DIAGNOSE:
        raise UsageError(f"diagnose={diagnose!r}: is not one of {', '.join(DIAGNOSE)}")
    if jobs is not None and jobs < 1:
        raise UsageError(f"jobs={jobs!r}: must be 1 or more, or None")
    if shard is not None and not 1 <= shard[0] <= shard[1] <= MOST_SHARDS:
        raise UsageError(f"shard={shard!r}: must be (i, n) with 1 ≤ i ≤ n ≤ {MOST_SHARDS:,}, or None")
    options = Options(
        models=_several(models),
        variants=_several(variants),
        cache_dir=_cache_folder(cache_dir, no_cache),
        jobs=jobs,
        timeout=_seconds(timeout),
        allow_code=allow_code,
        data_roots=_several(data_roots),
        diagnose=diagnose,
        shard=shard,
        costs=None if costs is None else os.fspath(costs),
        offline=offline,
    )
    if save_operator is not None:
        saving.require_place(os.fspath(save_operator), options)
    paths = _several(manifest)
    recorded = None if baseline is None else os.fspath(baseline)
    if scheduler is not None:
        from tflite_guard import cluster

        report = cluster.check(paths, options, scheduler, baseline=recorded)
    else:
        report = checking.check(paths, options, baseline=recorded)
    if save_operator is not None:
        loaded = checking.load_all(paths, options.data_roots, options.allow_code)
        _saved(report, loaded, options, save_operator)
    return Report.of(report)


def why(
    reference: Path,
    converted: Path,
    inputs: Any,
    labels: Any = None,
    *,
    calibration: Any = None,
    observed: Any = None,
    signature: str | None = None,
    cache_dir: Path | None = None,
    no_cache: bool = False,
    timeout: float = 3600.0,
    save_operator: Path | None = None,
) -> Explanation:
    """Why a converted model is worse than its reference, and what would mend it.

    Args:
        reference: a Keras model, a SavedModel, or a float .tflite.
        converted: the .tflite, or the name of a quantization to make it by, such as `int8`.
        inputs: the path of an .npz, one array (n, …), or a dictionary of arrays by input name.
        labels: the key of the labels in that .npz, or class numbers (n,); None compares with the reference alone.
        calibration: what the file was calibrated on, given as `inputs` is.
        observed: outputs that an application recorded for these inputs: the path of an .npz, or an array or arrays.
        signature: which one of a reference that has several.
        cache_dir: folder for results that later calls may take; None means the command line's, the user's cache folder.
        no_cache: take nothing from earlier calls and keep nothing.
        timeout: seconds that it may take.
        save_operator: folder for the first operator that is wrong, with its inputs.

    Raises:
        UsageError: a file is missing or of no supported kind, or an argument means nothing.
        DataError: it is not certain which array belongs to which input.
        EvaluationError: a model cannot be loaded or run, or an operator's files cannot be written.
    """
    from tflite_guard.asking import explain_arrays

    options = Options(cache_dir=_cache_folder(cache_dir, no_cache), timeout=_seconds(timeout))
    paths = os.fspath(reference), os.fspath(converted)

    def then(answer: Explanation) -> None:
        if save_operator is not None:
            _saved(answer.report, [answer.manifest], options, save_operator)

    if save_operator is not None:
        saving.require_place(os.fspath(save_operator), options)
    given = {"calibration": calibration, "observed": observed, "signature": signature}
    answer = explain_arrays(*paths, inputs, labels, **given, options=options, then=then)
    return replace(answer, report=Report.of(answer.report))


def compare(
    a: Path,
    b: Path,
    inputs: Any,
    labels: Any = None,
    *,
    signature: str | None = None,
    cache_dir: Path | None = None,
    no_cache: bool = False,
    timeout: float = 3600.0,
) -> Report:
    """How two .tflite files, quantized or not, differ on the same data. Nothing is judged.

    The report has one model, A, with one variant, B: a metric's `reference` is A's value, `value` B's, and `drop` how
    much worse B is, with its paired 95 % interval.

    Args:
        a: a .tflite.
        b: another one with the same inputs and outputs.
        inputs: the path of an .npz, one array (n, …), or a dictionary of arrays by input name.
        labels: the key of the labels in that .npz, or class numbers (n,); None compares the outputs alone.
        signature: which one of files that have several.
        cache_dir: folder for results that later calls may take; None means the command line's, the user's cache folder.
        no_cache: take nothing from earlier calls and keep nothing.
        timeout: seconds that it may take.

    Raises:
        UsageError: a file is missing or no .tflite, both are one file, or an argument means nothing.
        DataError: it is not certain which array belongs to which input.
        EvaluationError: A cannot be loaded. What goes wrong later is the report's, which is then not `ok`.
    """
    from tflite_guard.asking import compare_arrays

    options = Options(cache_dir=_cache_folder(cache_dir, no_cache), timeout=_seconds(timeout))
    return Report.of(compare_arrays(os.fspath(a), os.fspath(b), inputs, labels, signature=signature, options=options))


def _several(given: Path | Sequence[Path]) -> tuple[str, ...]:
    """One or several as several."""
    return tuple(os.fspath(one) for one in ((given,) if isinstance(given, str | os.PathLike) else given))


def _seconds(timeout: float) -> float:
    if not 0 < timeout <= LONGEST_TIMEOUT:
        raise UsageError(f"timeout={timeout!r}: must be a number of seconds over 0, at most a year")
    return timeout


def _cache_folder(cache_dir: Path | None, no_cache: bool) -> str | None:
    if no_cache and cache_dir is not None:
        raise UsageError("cache_dir and no_cache exclude each other")
    return None if no_cache else checking.cache_folder(None if cache_dir is None else os.fspath(cache_dir))


def _saved(report: results.Report, manifests: Sequence[Manifest], options: Options, folder: Path) -> None:
    """Write the operators; what is told of each is in its own README."""
    for _ in saving.save(report, manifests, options, os.fspath(folder)):
        pass
