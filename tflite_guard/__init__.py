"""tflite-guard: stops TensorFlow Lite accuracy regressions at the pull request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from os import PathLike

    from tflite_guard.results import Report

__all__ = ["check"]


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

    Raises:
        ManifestError: the manifest is invalid; holds every problem with its line and column.
        UsageError: a pattern matches nothing, or the baseline file cannot be read.
    """
    import os

    from tflite_guard import checking
    from tflite_guard.run.jobs import Options

    options = Options(
        models=tuple(models),
        variants=tuple(variants),
        cache_dir=None if cache_dir is None else os.path.abspath(os.fspath(cache_dir)),
        jobs=jobs,
        timeout=timeout,
        allow_code=allow_code,
        data_roots=tuple(data_roots),
    )
    return checking.check([os.fspath(manifest)], options, baseline=baseline)
