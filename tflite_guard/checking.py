"""A check from start to end, the same for the command line, the Action and Python: manifests to a report to files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from tflite_guard.errors import EvaluationError, GuardError, ManifestError, UsageError
from tflite_guard.files import is_full, make_folders, uris, write_atomically
from tflite_guard.files.globs import expanded
from tflite_guard.files.removal import remove_own
from tflite_guard.judgement import baseline as baselines
from tflite_guard.manifest import load, search
from tflite_guard.results import Report, Tool, Verdict
from tflite_guard.run import pieces, pipeline, sharding
from tflite_guard.run.steps import TOOL_NAME, environment, tool_version
from tflite_guard.vocabulary import REPORT_VERSION

if TYPE_CHECKING:
    from tflite_guard.manifest.types import Manifest
    from tflite_guard.run.jobs import Options
    from tflite_guard.run.steps import OnEvent
    from tflite_guard.run.workers import OnLog

NO_BASELINE = "off"
T = TypeVar("T")


def check(
    manifests: Sequence[str],
    options: Options,
    *,
    baseline: str | None = None,
    on_event: OnEvent | None = None,
    on_log: OnLog | None = None,
) -> Report:
    """Check the models of some manifests.

    Args:
        manifests: paths, folders and globs; none means `tflite-guard.json` here, else all that git tracks below.
        options: how to run.
        baseline: a file to compare one manifest with, `off`, or None for what is recorded beside each.
        on_event: called as work proceeds, from any thread.
        on_log: called with what TensorFlow and LiteRT said.

    Raises:
        ManifestError: a manifest is invalid; holds the problems of all of them.
        UsageError: no manifest is found, a pattern matches nothing, a baseline or a report of costs cannot be read, a
            data root is missing.
        EvaluationError: the run cannot be done at all.
    """
    loaded = load_all(manifests, options.data_roots, options.allow_code)
    if options.scores is not None:
        pieces.forget(options.scores)
    baselines = recorded([manifest.path for manifest in loaded], baseline, options.data_roots)
    known = _known(options)
    return pipeline.run(loaded, options, baselines=baselines, on_event=on_event, on_log=on_log, known=known)


def _known(options: Options) -> sharding.Measured | None:
    """What an earlier run took. Raises UsageError where its report cannot be read, or nothing is split."""
    if options.costs is None:
        return None
    from tflite_guard.reports.json import read

    if options.shard is None:
        raise UsageError(f"{options.costs}: costs decide how a run is split; say which part to check, as shard I/N")
    return sharding.measured(read(options.costs))


def load_all(manifests: Sequence[str], data_roots: Sequence[str], allow_code: bool) -> list[Manifest]:
    """Every manifest, or the problems of all of them at once."""
    for root in uris.folders(data_roots):
        if not os.path.isdir(root):
            raise UsageError(f"--data-root {root}: there is no such folder")
    loaded, problems = [], []
    for path in search.find(manifests):
        try:
            loaded.append(load(path, data_roots=data_roots, allow_code=allow_code))
        except ManifestError as error:
            problems.extend(error.problems)
    if problems:
        raise ManifestError(problems)
    return loaded


def recorded(
    manifests: Sequence[str], baseline: str | None, data_roots: Sequence[str]
) -> dict[str, baselines.Baseline]:
    """The baseline of each manifest that has one: of a file, none for `off`, or what is beside it.

    Raises UsageError where one cannot be read, or a file is meant for several manifests.
    """
    if baseline is None:
        return baselines.beside(manifests, data_roots)
    if baseline == NO_BASELINE:
        return {}
    if len(manifests) > 1:
        raise UsageError(f"--baseline {baseline}: belongs to one manifest; check each manifest by itself")
    return {manifests[0]: baselines.read(baseline, data_roots)}


def merged(named: Sequence[str]) -> Report:
    """One report of those of a run's shards, by paths and globs.

    Raises:
        UsageError: one cannot be read, is missing or given twice, they are not of one run, or a glob matches nothing.
        EvaluationError: a shard has no results.
    """
    from tflite_guard.reports.json import read
    from tflite_guard.run import merging

    return merging.merged({path: read(path) for path in expanded(named)})


def holder_of(model: str, manifests: Sequence[Manifest]) -> Manifest:
    """The manifest that has a model of this name; a lone one in any case, and what it has is told later.

    Raises UsageError where several have it, or none of several.
    """
    holders = [one for one in manifests if any(entry.name == model for entry in one.models)]
    if len(holders) == 1 or len(manifests) == 1:
        return (holders or manifests)[0]
    if holders:
        listed = " and ".join(one.path for one in holders)
        raise UsageError(f"model {model!r} is in {listed}; say which is meant with --manifest")
    listed = "; ".join(f"{one.path} has {', '.join(entry.name for entry in one.models)}" for one in manifests)
    raise UsageError(f"there is no model {model!r}: {listed}")


def cache_folder(named: str | None) -> str | None:
    """Where results are kept: in the folder that is named, else the user's cache folder.

    None without a name where there is no home or it cannot be written, as in containers.
    """
    if named is not None:
        return os.path.abspath(named)
    import platformdirs

    folder = nearest = platformdirs.user_cache_dir("tflite-guard")
    if not os.path.isabs(folder):
        return None
    while not os.path.exists(nearest):
        nearest = os.path.dirname(nearest)
    return folder if os.access(nearest, os.W_OK | os.X_OK) else None


def write(
    report: Report, files: Sequence[tuple[str, str]], folder: str | None = None, names: Sequence[str] = ()
) -> None:
    """Write renderings to files, and to a report folder those named, or all of them and node data.

    Raises:
        EvaluationError: a file could not be written; all others are.
    """
    from tflite_guard.reports import FORMATS

    # A link that a pull request put into the report folder must not say where a file goes.
    targets = [(name, file, True) for name, file in files]
    if folder is not None:
        filed(folder, partial(make_folders, folder))
        targets += [(name, os.path.join(folder, FORMATS[name].file), False) for name in names or FORMATS]
    failures = []
    for name, file, follow in targets:
        for own, text in FORMATS[name].files(report).items():
            path = file if own == FORMATS[name].file else os.path.join(os.path.dirname(file), own)
            try:
                filed(path, partial(write_atomically, path, text.encode(), follow=follow))
            except EvaluationError as error:
                failures.append(error)
    if folder is not None and set(FORMATS) <= set(names or FORMATS):
        failures += _write_node_data(report, folder)
    if failures:
        raise failures[0]


def _write_node_data(report: Report, folder: str) -> Iterator[EvaluationError]:
    """Write node data for Model Explorer in place of an earlier run's; gives what could not be written."""
    from tflite_guard.reports import model_explorer

    own = os.path.join(folder, model_explorer.FOLDER)
    forget_node_data(folder)
    for name, text in model_explorer.files(report).items():
        path = os.path.join(own, name)
        try:
            filed(own, partial(make_folders, own))
            filed(path, partial(write_atomically, path, text.encode(), follow=False))
        except EvaluationError as error:
            yield error


def forget_node_data(folder: str) -> None:
    """Remove the node data of a report folder, which is of an earlier run or came with the commit."""
    from tflite_guard.reports import model_explorer

    remove_own(os.path.join(folder, model_explorer.FOLDER), (".json",))


def filed(path: str, do: Callable[[], T]) -> T:
    """Do something with a file; a failure names it."""
    try:
        return do()
    except OSError as error:
        why = "no space left" if is_full(error) else f"cannot be written ({error.strerror})"
        raise EvaluationError("file", f"{path}: {why}; write elsewhere") from None


def scores_folder(report_dir: str | None) -> str | None:
    """Where in a report folder a shard keeps the scores of pieces of evaluation data."""
    return None if report_dir is None else os.path.join(report_dir, pieces.FOLDER)


def without_results(error: GuardError) -> Report:
    """The report of a run that came to nothing: no models, and why."""
    why = error.problems if isinstance(error, ManifestError) else [error]
    tool = Tool(TOOL_NAME, tool_version())
    return Report(REPORT_VERSION, tool, environment(), Verdict.ERROR, (), tuple(map(str, why)))


def exit_code(outcome: Report | GuardError, fail_on: str) -> int:
    """The exit code of the contract: 0 passed, 1 out of tolerance, 2 wrong usage, 3 not evaluated."""
    if isinstance(outcome, GuardError):
        code = outcome.exit_code
        return 0 if fail_on == "never" and code == GuardError.exit_code else code
    if any(error.kind == ManifestError.kind for error in outcome.errors):
        return ManifestError.exit_code
    codes = {Verdict.ERROR: 3, Verdict.FAIL: 1, Verdict.WARN: 1 if fail_on == "warning" else 0, Verdict.PASS: 0}
    return 0 if fail_on == "never" else codes[outcome.verdict]
