"""tflite-guard: stops TensorFlow Lite accuracy regressions at the pull request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from os import PathLike

    from tflite_guard.asking import Explanation
    from tflite_guard.manifest.types import Manifest
    from tflite_guard.results import Report
    from tflite_guard.run.jobs import Options
    from tflite_guard.vocabulary import DiagnoseUse

__all__ = ["check", "why"]


def check(
    manifest: str | PathLike[str],
    *,
    models: Sequence[str] = (),
    variants: Sequence[str] = (),
    cache_dir: str | PathLike[str] | None = None,
    jobs: int | None = None,
    timeout: float = 3600.0,
    data_roots: Sequence[str] = (),
    allow_code: bool = False,
    baseline: str | None = None,
    diagnose: DiagnoseUse = "auto",
    save_operator: str | PathLike[str] | None = None,
) -> Report:
    """Check every model of a manifest and give the report that the command line renders.

    No `if __name__ == "__main__"` guard is needed: models run in processes of their own.

    Args:
        manifest: path of the manifest.
        models: glob patterns of the models to check; empty means all.
        variants: glob patterns of the variants to check; empty means all.
        cache_dir: folder for results that later runs may take; None keeps nothing.
        jobs: models at a time; None chooses by the number of cores.
        timeout: seconds that a model may take.
        data_roots: folders outside the repository that the manifest may read.
        allow_code: run Python named by the manifest, Lambda layers and graphs that touch files.
        baseline: a file to compare with, `off`, or None for what is recorded beside the manifest.
        diagnose: look for the cause of what does not pass (`auto`), of everything (`always`), or of nothing (`never`).
        save_operator: folder for the first operator that is wrong of each diagnosed variant, `MODEL-VARIANT/` each.

    Raises:
        ManifestError: the manifest is invalid; holds every problem with its line and column.
        UsageError: a pattern matches nothing, the baseline file cannot be read, or `save_operator` is a file.
        EvaluationError: the run cannot be done at all, or an operator's files cannot be written.
    """
    import os

    from tflite_guard import checking, saving
    from tflite_guard.run.jobs import Options

    options = Options(
        models=tuple(models),
        variants=tuple(variants),
        cache_dir=None if cache_dir is None else os.path.abspath(os.fspath(cache_dir)),
        jobs=jobs,
        timeout=timeout,
        allow_code=allow_code,
        data_roots=tuple(data_roots),
        diagnose=diagnose,
    )
    if save_operator is not None:
        saving.require_place(os.fspath(save_operator), options)
    paths = [os.fspath(manifest)]
    report = checking.check(paths, options, baseline=baseline)
    if save_operator is not None:
        loaded = checking.load_all(paths, options.data_roots, options.allow_code)
        _saved(report, loaded, options, save_operator)
    return report


def why(
    reference: str | PathLike[str],
    converted: str | PathLike[str],
    inputs: Any,
    labels: Any = None,
    *,
    calibration: Any = None,
    observed: Any = None,
    cache_dir: str | PathLike[str] | None = None,
    timeout: float = 3600.0,
    save_operator: str | PathLike[str] | None = None,
) -> Explanation:
    """Why a converted model is worse than its reference, and what would mend it.

    Args:
        reference: a Keras model, a SavedModel, or a float .tflite.
        converted: the .tflite, or the name of a quantization to make it by, such as `int8`.
        inputs: the path of an .npz, one array (n, …), or a dictionary of arrays by input name.
        labels: the key of the labels in that .npz, or class numbers (n,); None compares with the reference alone.
        calibration: what the file was calibrated on, given as `inputs` is.
        observed: outputs that an application recorded for these inputs: the path of an .npz, or an array or arrays.
        cache_dir: folder for results that later calls may take; None keeps nothing.
        timeout: seconds that it may take.
        save_operator: folder for the first operator that is wrong, with its inputs.

    Raises:
        UsageError: a file is missing or of no supported kind, or `save_operator` is a file.
        DataError: it is not certain which array belongs to which input.
        EvaluationError: a model cannot be loaded or run, or an operator's files cannot be written.
    """
    import os

    from tflite_guard import saving
    from tflite_guard.asking import explain_arrays
    from tflite_guard.run.jobs import Options

    options = Options(cache_dir=None if cache_dir is None else os.path.abspath(os.fspath(cache_dir)), timeout=timeout)
    paths = os.fspath(reference), os.fspath(converted)

    def then(answer: Explanation) -> None:
        if save_operator is not None:
            _saved(answer.report, [answer.manifest], options, save_operator)

    if save_operator is not None:
        saving.require_place(os.fspath(save_operator), options)
    given = {"calibration": calibration, "observed": observed}
    return explain_arrays(*paths, inputs, labels, **given, options=options, then=then)


def _saved(report: Report, manifests: Sequence[Manifest], options: Options, folder: str | PathLike[str]) -> None:
    """Write the operators; what is told of each is in its own README."""
    import os

    from tflite_guard.saving import save

    for _ in save(report, manifests, options, os.fspath(folder)):
        pass
