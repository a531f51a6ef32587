"""The command line: arguments to calls to an exit code, and the one place where errors become lines for people."""

from __future__ import annotations

import functools
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import click

from tflite_guard.errors import EvaluationError, GuardError, ManifestError, UsageError
from tflite_guard.files import is_full, shortage
from tflite_guard.reports import FORMATS
from tflite_guard.text.plain import logged, plain
from tflite_guard.vocabulary import COMMENT_ON, DEFAULT_MANIFEST, DIAGNOSE, FAIL_ON, LONGEST_TIMEOUT

if TYPE_CHECKING:
    from tflite_guard.manifest import Manifest
    from tflite_guard.reports.terminal import Extent
    from tflite_guard.results import Report
    from tflite_guard.run.cache import Cache, Usage
    from tflite_guard.run.jobs import Options
    from tflite_guard.vocabulary import DiagnoseUse

ISSUES = "https://github.com/tflite-guard/tflite-guard/issues"
WEBSITE = "https://tflite-guard.github.io/tflite-guard/"
INTERRUPTED = 130
ENDINGS = (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM))  # Windows has no terminals that hang up

PATH = click.Path(readable=False)
"""What a shell completes as a file or folder. Whether it can be read is told where it is read."""
MANIFESTS = click.argument("manifests", nargs=-1, metavar="[MANIFEST]...", type=PATH)
CHANGED = click.option(
    "--changed",
    is_flag=True,
    help="The arguments are files that changed, as pre-commit names them: take the manifests that they concern.",
)
DATA_ROOT = click.option(
    "--data-root",
    "data_roots",
    multiple=True,
    metavar="DIR|URI",
    type=PATH,
    help="A folder outside the repository, or a URI (https://, s3://, gs://), below which manifests may name files. "
    "Repeatable.",
)
ALLOW_CODE = click.option(
    "--allow-code", is_flag=True, help="Run Python named by the manifest, Lambda layers, and graphs that touch files."
)
VERBOSE = click.option("-v", "--verbose", is_flag=True, help="Show what TensorFlow and LiteRT print.")


def _seconds(_ctx: click.Context, _parameter: click.Parameter, value: float) -> float:
    if not 0 < value <= LONGEST_TIMEOUT:  # click's own range lets NaN pass
        raise click.BadParameter(f"{value:g} is not a number of seconds over 0, at most a year.")
    return value


def _run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that evaluates or converts; the command gets them as one `options`."""

    @functools.wraps(command)
    def with_options(
        *arguments: Any,
        cache_dir: str | None,
        no_cache: bool,
        timeout: float,
        offline: bool,
        data_roots: tuple[str, ...],
        allow_code: bool,
        models: tuple[str, ...] = (),
        variants: tuple[str, ...] = (),
        jobs: int | None = None,
        diagnose: DiagnoseUse = "auto",
        shard: tuple[int, int] | None = None,
        costs: str | None = None,
        **others: Any,
    ) -> Any:
        from tflite_guard.run.jobs import Options

        folder = _cache_folder(cache_dir, no_cache)
        chosen = (models, variants, folder, jobs, timeout, allow_code, data_roots, diagnose)
        options = Options(*chosen, shard=shard, costs=costs, offline=offline)
        return command(*arguments, options=options, **others)

    decorators = (
        click.option("--cache-dir", metavar="DIR", type=PATH,
                     help="Where results are kept. Default: the user's cache folder."),
        click.option("--no-cache", is_flag=True, help="Take nothing from earlier runs and keep nothing."),
        click.option("--timeout", type=float, callback=_seconds, default=3600, metavar="SECONDS",
                     show_default=True, help="The time that a model may take."),
        click.option("--offline", is_flag=True, help="Fetch nothing: take files that are named by URI from the cache."),
        DATA_ROOT,
        ALLOW_CODE,
    )  # fmt: skip
    return _decorated(with_options, decorators)


def _shard(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    from tflite_guard.run import sharding

    try:
        return None if value is None else sharding.parse(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _selection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    decorators = (
        click.option(
            "--model", "models", multiple=True, metavar="GLOB", help="Check only models of this name. Repeatable."
        ),
        click.option(
            "--variant", "variants", multiple=True, metavar="GLOB", help="Check only variants of this name. Repeatable."
        ),
        click.option(
            "--jobs", type=click.IntRange(min=1), metavar="N", help="Models at a time. Default: by the number of cores."
        ),
    )
    return _decorated(command, decorators)


def _extent_options(also: str = "") -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """What the text on standard output shows; `also` is what else -v does."""
    decorators = (
        click.option("-v", "--verbose", is_flag=True, help=f"Show all figures of models that pass{also}."),
        click.option("-q", "--quiet", is_flag=True,
                     help="Show what does not pass and the verdict; no tables and no progress."),
        click.option("--only-failures", is_flag=True, help="Leave what passes out of the tables."),
    )  # fmt: skip
    return functools.partial(_decorated, decorators=decorators)


def _extent(verbose: bool, quiet: bool, only_failures: bool) -> Extent:
    if verbose and quiet:
        raise UsageError("-v and -q exclude each other")
    if quiet:
        return "quiet"
    return "failures" if only_failures else "all" if verbose else "folded"


FAIL_ON_OPTION = click.option("--fail-on", type=click.Choice(FAIL_ON), default="error", show_default=True,
                              help="What makes the exit code 1.")  # fmt: skip
SAVE_OPERATOR = click.option(
    "--save-operator",
    "save_folder",
    metavar="FOLDER",
    type=PATH,
    help="Save the first wrong operator of each diagnosed variant, with its inputs, for a bug report.",
)


def _decorated(command: Callable[..., Any], decorators: Sequence[Callable[..., Any]]) -> Callable[..., Any]:
    for decorator in reversed(decorators):
        command = decorator(command)
    return command


def _formats(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """What a shell completes."""
    return [name for name in FORMATS if name.startswith(incomplete)]


def _rules(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """What a shell completes."""
    from tflite_guard.rules import RULES

    return [rule for rule in RULES if rule.startswith(incomplete)]


def _output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--format", "formats", multiple=True, metavar="NAME[=FILE]", shell_complete=_formats,
                     help=f"A rendering ({', '.join(FORMATS)}) to standard output or to a file. Repeatable. "
                          "Default: text."),
        click.option("--report-dir", metavar="DIR", type=PATH, help="Write report.json and every rendering there."),
    ):  # fmt: skip
        command = option(command)
    return command


class _InOrder(click.Group):
    """Lists its commands as they are defined here: what people meet first comes first."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - as click has it
        """The names of the commands."""
        return list(self.commands)


def _below(*examples: str, page: str = "", more: Sequence[str] = ()) -> str:
    """What stands below a command's help, each paragraph with its lines as they are: examples first, a page last."""
    lines = "\n".join(["Examples:", *(f"  tflite-guard {line}" for line in examples)])
    link = f"Documentation: {WEBSITE}{page}"
    return "\n\n".join(f"\b\n{paragraph}" for paragraph in (*([lines] if examples else []), *more, link))


EXIT_CODES = """Exit codes:
  0    everything is within tolerance
  1    a tolerance is exceeded
  2    wrong usage or an invalid manifest
  3    something could not be evaluated
  130  interrupted"""


@click.group(
    cls=_InOrder,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=_below(
        "init model.keras evaluation.npz",
        "check",
        "why model.keras model_int8.tflite data.npz",
        more=[EXIT_CODES],
    ),
)
@click.version_option(package_name="tflite-guard")
def cli() -> None:
    """Stop TensorFlow Lite accuracy regressions: evaluate converted models against their float reference."""


@cli.command(
    epilog=_below(
        "check",
        "check models/ --model 'keyword*' --variant int8",
        "check --report-dir reports --format markdown=summary.md",
        "check --only-failures",
        page="tutorial/",
        more=[EXIT_CODES],
    )
)
@MANIFESTS
@CHANGED
@_selection_options
@_output_options
@FAIL_ON_OPTION
@click.option(
    "--baseline",
    metavar="FILE|off",
    type=PATH,
    help="Compare with this baseline. Default: the file beside each manifest.",
)
@click.option("--diagnose", type=click.Choice(DIAGNOSE), default="auto", show_default=True,
              help="Look for the cause of what does not pass, of everything, or of nothing.")  # fmt: skip
@click.option("--shard", metavar="I/N", callback=_shard,
              help="Check the I-th of N parts, on one of N machines; `merge` makes one report.")  # fmt: skip
@click.option("--scheduler", metavar="ADDRESS",
              help="Check on the workers of a Dask cluster: tcp://HOST:PORT or tls://HOST:PORT.")  # fmt: skip
@click.option("--costs", metavar="REPORT", type=PATH,
              help="With --shard: make the parts even by an earlier run's report.json.")  # fmt: skip
@click.option(
    "--apply-remedy",
    is_flag=True,
    help="Edit the manifest: apply the first verified remedy of each variant that does not pass.",
)
@SAVE_OPERATOR
@_run_options
@_extent_options(", and what TensorFlow and LiteRT print")
def check(
    manifests: tuple[str, ...],
    changed: bool,
    report_dir: str | None,
    formats: tuple[str, ...],
    fail_on: str,
    baseline: str | None,
    scheduler: str | None,
    apply_remedy: bool,
    save_folder: str | None,
    verbose: bool,
    quiet: bool,
    only_failures: bool,
    options: Options,
) -> None:
    """Convert and evaluate every model and say which tolerances hold.

    A MANIFEST is a file, a folder with a tflite-guard.json in it, or a glob. Without one: tflite-guard.json here,
    otherwise every one below that git tracks.
    """
    from msgspec.structs import replace

    from tflite_guard.checking import exit_code, load_all, scores_folder

    extent = _extent(verbose, quiet, only_failures)
    if apply_remedy and options.diagnose == "never":
        raise UsageError("--apply-remedy needs a diagnosis; leave out --diagnose never")
    if save_folder is not None:
        from tflite_guard.saving import require_place

        require_place(save_folder, options)
    targets = _targets(formats, report_dir)
    options = replace(options, scores=scores_folder(report_dir))
    try:
        meant = _meant(manifests, changed)
        report = _check(meant, options, baseline, verbose, quiet, scheduler)
    except GuardError as error:
        _write_failure(error, targets, report_dir)
        if exit_code(error, fail_on) != 0:
            raise
        _say(f"tflite-guard: {error}")
        sys.exit(0)
    with _told(fail_on):
        _write(report, targets, report_dir, extent)
    if save_folder is not None:
        with _told(fail_on):
            manifests_read = load_all(meant, options.data_roots, options.allow_code)
            _save_operators(report, manifests_read, options, save_folder, verbose)
    if apply_remedy:
        _apply_remedies(report, options)
    sys.exit(exit_code(report, fail_on))


@cli.command(
    short_help="Check manifests without running anything.",
    epilog=_below("validate", "validate models/*/tflite-guard.json", page="manifest/"),
)
@MANIFESTS
@CHANGED
@DATA_ROOT
@ALLOW_CODE
def validate(manifests: tuple[str, ...], changed: bool, data_roots: tuple[str, ...], allow_code: bool) -> None:
    """Check manifests without running anything: schema, names, files, hashes. Reports every problem at once."""
    from tflite_guard.checking import load_all
    from tflite_guard.reports.wording import count

    for manifest in load_all(_meant(manifests, changed), data_roots, allow_code):
        variants = sum(len(model.variants) for model in manifest.models)
        click.echo(
            f"{_safe(manifest.path)}: valid, {count(len(manifest.models), 'model')}, {count(variants, 'variant')}"
        )


@cli.command(
    epilog=_below(
        "init model.keras evaluation.npz",
        "init model.tflite photos/ --measure",
        "init saved_model data.csv --labels species -o flowers.json",
        page="tutorial/",
    )
)
@click.argument("model", type=PATH)
@click.argument("data", required=False, nargs=-1, metavar="[DATA]", type=PATH)
@click.option(
    "-o",
    "--output",
    default=DEFAULT_MANIFEST,
    show_default=True,
    metavar="FILE",
    type=PATH,
    help="The manifest to write.",
)
@click.option("--signature", metavar="NAME", help="Which signature of a SavedModel or .tflite that has several.")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="[NAME=]KEY",
    help="Which array of DATA feeds an input, if the names do not say. Repeatable.",
)
@click.option(
    "--labels",
    multiple=True,
    metavar="[OUTPUT=]KEY|FILE.npy",
    help="Which array holds an output's labels, if the names do not say. Repeatable.",
)
@click.option(
    "--tflite",
    multiple=True,
    metavar="FILE",
    type=PATH,
    help="A .tflite to judge beside the variants made from MODEL. Repeatable; globs are allowed.",
)
@click.option("--measure", is_flag=True, help="Set each variant's tolerances to what it reaches now.")
@ALLOW_CODE
@click.option("--force", is_flag=True, help="Overwrite an existing manifest, and its random data.")
@VERBOSE
def init(
    model: str,
    data: tuple[str, ...],
    output: str,
    signature: str | None,
    inputs: tuple[str, ...],
    labels: tuple[str, ...],
    tflite: tuple[str, ...],
    measure: bool,
    allow_code: bool,
    force: bool,
    verbose: bool,
) -> None:
    """Write a manifest that works for MODEL, with DATA if given.

    DATA is an .npz, an .npy, a CSV file, a TFRecord or several ("train-*-of-00004.tfrecord"), a folder of images or of
    a folder for each class, or a folder with evaluation and calibration data of these kinds.
    """
    from tflite_guard.files.globs import expanded
    from tflite_guard.init import Wishes, write_manifest
    from tflite_guard.init.binding import Chosen
    from tflite_guard.init.sources import pattern_for

    _require_place(output)
    file = labels[0] if len(labels) == 1 and labels[0].endswith(".npy") else None
    chosen = Chosen(_pairs(inputs), _pairs(() if file else labels))
    wishes = Wishes(signature, chosen, file, tuple(expanded(tflite)), measure, allow_code, force)
    told: list[str] = []
    try:
        with _progress(verbose) as on_event:
            source = data[0] if len(data) == 1 else pattern_for(data) if data else None
            told += write_manifest(model, source, output, wishes, on_log=_log if verbose else None, on_event=on_event)
    finally:
        for line in told:  # once the progress is gone, which it would break
            click.echo(_safe(line))


def _pairs(written: Sequence[str]) -> dict[str, str]:
    """`NAME=KEY` by name; what has no name goes by ""."""
    return {
        name if is_pair else "": key if is_pair else name
        for name, is_pair, key in (one.partition("=") for one in written)
    }


@cli.command(
    short_help="Say why a converted model performs worse, and what to change.",
    epilog=_below(
        "why model.keras model_int8.tflite data.npz",
        "why model.keras int8 data.npz --calibration calibration.npz",
        page="diagnosis/",
        more=[EXIT_CODES],
    ),
)
@click.argument("reference", type=PATH)
@click.argument("converted", type=PATH)
@click.argument("data", type=PATH)
@click.option("--calibration", metavar="FILE", type=PATH, help="The .npz that CONVERTED was calibrated on.")
@click.option(
    "--observed", metavar="FILE", type=PATH, help="An .npz of outputs that the application recorded for DATA."
)
@click.option("--labels", metavar="KEY", help="Which array of DATA holds the labels, if its name does not say.")
@click.option("--signature", metavar="NAME", help="Which signature of a REFERENCE that has several.")
@click.option("--manifest", metavar="FILE", type=PATH, help="Write the generated manifest to this file.")
@SAVE_OPERATOR
@_run_options
@VERBOSE
def why(
    reference: str,
    converted: str,
    data: str,
    calibration: str | None,
    observed: str | None,
    labels: str | None,
    signature: str | None,
    manifest: str | None,
    save_folder: str | None,
    verbose: bool,
    options: Options,
) -> None:
    """Say why CONVERTED performs worse than REFERENCE on DATA, and what to change. DATA is what `init` takes.

    REFERENCE is a Keras model, a SavedModel or a float .tflite; CONVERTED a .tflite, or the name of a quantization.
    """
    from tflite_guard.asking import Question, explain
    from tflite_guard.checking import exit_code
    from tflite_guard.saving import require_place

    if manifest is not None:
        _require_place(manifest)
        if os.path.lexists(manifest):
            raise UsageError(f"{manifest}: exists already; name another --manifest")
    if save_folder is not None:
        require_place(save_folder, options)
    question = Question(reference, converted, data, labels, calibration, observed, signature)
    with _progress(verbose) as on_event:
        answer = explain(question, options, manifest=manifest, on_event=on_event, on_log=_log if verbose else None)
    click.echo(str(answer), nl=False)
    if save_folder is not None:
        _save_operators(answer.report, [answer.manifest], options, save_folder, verbose)
    sys.exit(exit_code(answer.report, "error"))


COMPARE_CODES = """Exit codes:
  0    the files were compared
  2    wrong usage
  3    a file could not be evaluated
  130  interrupted"""


@cli.command(
    short_help="Compare two .tflite files with one another.",
    epilog=_below(
        "compare last_release.tflite model_int8.tflite data.npz",
        "compare old/model.tflite new/model.tflite photos/ --format markdown=comparison.md",
        page="cookbook/",
        more=[COMPARE_CODES],
    ),
)
@click.argument("a", metavar="A.tflite", type=PATH)
@click.argument("b", metavar="B.tflite", type=PATH)
@click.argument("data", type=PATH)
@click.option("--labels", metavar="KEY", help="Which array of DATA holds the labels, if its name does not say.")
@click.option("--input", "inputs", multiple=True, metavar="[NAME=]KEY",
              help="Which array of DATA feeds an input, if the names do not say. Repeatable.")  # fmt: skip
@click.option("--signature", metavar="NAME", help="Which signature of files that have several.")
@_output_options
@_run_options
@VERBOSE
def compare(
    a: str,
    b: str,
    data: str,
    labels: str | None,
    inputs: tuple[str, ...],
    signature: str | None,
    report_dir: str | None,
    formats: tuple[str, ...],
    verbose: bool,
    options: Options,
) -> None:
    """Say how B.tflite differs from A.tflite on DATA: their metrics, example by example, with intervals.

    Each is run as it is, quantized or not: two releases, two recipes, or the outputs of two converter versions. Nothing
    is judged, so that a difference is no failure. DATA is what `init` takes.
    """
    from tflite_guard.asking import Pair
    from tflite_guard.asking import compare as compared
    from tflite_guard.checking import exit_code

    targets = _targets(formats, report_dir)
    with _progress(verbose) as on_event:
        pair = Pair(a, b, data, labels, _pairs(inputs), signature)
        report = compared(pair, options, on_event=on_event, on_log=_log if verbose else None)
    _write(report, targets, report_dir)
    sys.exit(exit_code(report, "error"))


@cli.command(epilog=_below("convert digits int8 -o digits_int8.tflite", page="tutorial/"))
@click.argument("model_name")
@click.argument("variant")
@click.option("-o", "--output", required=True, metavar="FILE", type=PATH, help="Where to write the .tflite.")
@click.option(
    "--manifest",
    metavar="FILE",
    type=PATH,
    help=f"Default: {DEFAULT_MANIFEST} here, else of all that git tracks below the one with that model.",
)
@_run_options
@VERBOSE
def convert(model_name: str, variant: str, output: str, manifest: str | None, verbose: bool, options: Options) -> None:
    """Write the very .tflite that `check` judges for one variant."""
    from tflite_guard.checking import filed, holder_of, load_all
    from tflite_guard.files import write_atomically
    from tflite_guard.run.pipeline import artifact
    from tflite_guard.text.figures import size

    _require_place(output)
    named = () if manifest is None else (manifest,)
    loaded = holder_of(model_name, load_all(named, options.data_roots, options.allow_code))
    with _progress(verbose) as on_event:
        model = artifact(loaded, model_name, variant, options, _log if verbose else None, on_event)
    filed(output, lambda: write_atomically(output, model))
    click.echo(f"{_safe(output)}: {size(len(model))}")


@cli.command(
    epilog=_below(
        "report report.json", "report report.json --format html=report.html", "report report.json --only-failures"
    )
)
@click.argument("report_json", metavar="REPORT.json", type=PATH)
@_output_options
@_extent_options()
def report(
    report_json: str,
    formats: tuple[str, ...],
    report_dir: str | None,
    verbose: bool,
    quiet: bool,
    only_failures: bool,
) -> None:
    """Render a finished report."""
    from tflite_guard.reports.json import read

    extent = _extent(verbose, quiet, only_failures)
    targets = _targets(formats, report_dir)
    _write(read(report_json), targets, report_dir, extent)


@cli.command(
    short_help="Make one report of the reports of all shards.",
    epilog=_below("merge shards/*/report.json --report-dir reports", page="scaling/", more=[EXIT_CODES]),
)
@click.argument("reports", nargs=-1, required=True, metavar="REPORT.json...", type=PATH)
@_output_options
@FAIL_ON_OPTION
@_extent_options()
def merge(
    reports: tuple[str, ...],
    formats: tuple[str, ...],
    report_dir: str | None,
    fail_on: str,
    verbose: bool,
    quiet: bool,
    only_failures: bool,
) -> None:
    """Make one report of the reports of all shards of a run: what `check` without --shard would have given."""
    from tflite_guard.checking import exit_code, merged

    extent = _extent(verbose, quiet, only_failures)
    targets = _targets(formats, report_dir)
    whole = merged(reports)
    _write(whole, targets, report_dir, extent)
    sys.exit(exit_code(whole, fail_on))


@cli.command(
    short_help="Post or update the comment on a pull request.",
    epilog=_below(
        "comment report.json --dry-run",
        "comment report.json --repository octo/models --pull-request 7",
        page="github-action/",
    ),
)
@click.argument("report_json", metavar="REPORT.json", type=PATH)
@click.option("--when", type=click.Choice(COMMENT_ON), default="auto", show_default=True,
              help="When to add a comment; one that exists is always brought up to date.")  # fmt: skip
@click.option("--comment-id", default="tflite-guard", show_default=True, metavar="ID", help="Which comment to update.")
@click.option(
    "--author", metavar="LOGIN", help="Whom GITHUB_TOKEN writes as, if it belongs to a GitHub App of your own."
)
@click.option("--repository", metavar="OWNER/NAME", help="Default: GITHUB_REPOSITORY.")
@click.option(
    "--pull-request", type=click.IntRange(min=1), metavar="N", help="Default: the one that triggered the run."
)
@click.option("--dry-run", is_flag=True, help="Print what the comment would say, and post nothing.")
def comment(
    report_json: str,
    when: str,
    comment_id: str,
    author: str | None,
    repository: str | None,
    pull_request: int | None,
    dry_run: bool,
) -> None:
    """Post or update the comment of a pull request; the token is GITHUB_TOKEN."""
    from tflite_guard import commenting
    from tflite_guard.reports.json import read

    finished = read(report_json)
    if dry_run:
        click.echo(commenting.body(finished), nl=False)
        return
    context = commenting.context(os.environ, repository, pull_request)
    token = os.environ.get("GITHUB_TOKEN", "")
    if not token:
        raise UsageError("set GITHUB_TOKEN to a token that may write comments on pull requests")
    posted = commenting.comment(finished, context, token, when=when, comment_id=comment_id, author=author)
    click.echo(_safe(f"comment {posted.action}" + (f": {posted.url}" if posted.url else "")))
    if posted.reason:
        _say(posted.reason)


@cli.group(
    cls=_InOrder,
    short_help="Record the current results, to judge later changes by.",
    epilog=_below("baseline update", "baseline show", page="metrics/"),
)
def baseline() -> None:
    """Record present results, so that later runs also gate on the change since then."""


@baseline.command(epilog=_below("baseline update", "baseline update models/tflite-guard.json", page="metrics/"))
@MANIFESTS
@_run_options
@VERBOSE
def update(manifests: tuple[str, ...], verbose: bool, options: Options) -> None:
    """Check the manifests and record the results beside each, to commit."""
    from msgspec.structs import replace

    from tflite_guard.checking import NO_BASELINE
    from tflite_guard.judgement import baseline as baselines
    from tflite_guard.manifest import search
    from tflite_guard.reports.wording import count
    from tflite_guard.results import Verdict
    from tflite_guard.run.pipeline import report_of

    finished = _check(manifests, replace(options, every_example=True), NO_BASELINE, verbose)
    if finished.verdict is Verdict.ERROR:
        _write(finished, [("text", None)], None)
        raise EvaluationError("baseline", "nothing recorded: something could not be evaluated (see above)")
    for path in search.find(manifests):
        target, part = baselines.path_for(path), report_of(finished, path)
        baselines.write(target, baselines.from_report(part), options.data_roots)
        click.echo(f"{_safe(target)}: {count(len(part.models), 'model')} recorded; commit it")


@baseline.command(epilog=_below("baseline show", page="metrics/"))
@MANIFESTS
@DATA_ROOT
def show(manifests: tuple[str, ...], data_roots: tuple[str, ...]) -> None:
    """Print the recorded results."""
    from tflite_guard.judgement import baseline as baselines
    from tflite_guard.manifest import search

    for path in search.find(manifests):
        for line in baselines.describe(baselines.path_for(path), data_roots).splitlines():
            click.echo(_safe(line))


@cli.group(
    "cache",
    cls=_InOrder,
    short_help="Show or remove what earlier runs have left for later ones.",
    epilog=_below("cache info", "cache clear"),
)
def cache_group() -> None:
    """Show or remove the results that runs keep for later ones, and the files that they have fetched."""


CACHE_DIR = click.option("--cache-dir", metavar="DIR", type=PATH, help="Default: the user's cache folder.")


@cache_group.command("info", epilog=_below("cache info"))
@CACHE_DIR
def cache_info(cache_dir: str | None) -> None:
    """Say where results are kept, how many there are, and what they take."""
    from tflite_guard.text.figures import size

    folder, cache = _cache(cache_dir)
    held = cache.usage()
    click.echo(f"{_safe(folder)}: {_held(held)}; after a run at most {size(held.most)} are kept")


@cache_group.command("clear", epilog=_below("cache clear"))
@CACHE_DIR
def cache_clear(cache_dir: str | None) -> None:
    """Remove all of them; the next run makes them anew."""
    folder, cache = _cache(cache_dir)
    click.echo(f"{_safe(folder)}: removed {_held(cache.clear())}")


def _cache(named: str | None) -> tuple[str, Cache]:
    from tflite_guard.checking import cache_folder
    from tflite_guard.run.cache import Cache

    folder = cache_folder(named)
    if folder is None:
        raise UsageError("there is no cache: the user's cache folder cannot be written; name one with --cache-dir")
    return folder, Cache(folder)


def _held(usage: Usage) -> str:
    from tflite_guard.reports.wording import count
    from tflite_guard.text.figures import size

    fetched = f" and {count(usage.fetched, 'fetched file')}" if usage.fetched else ""
    return f"{count(usage.entries, 'result')}{fetched}, {size(usage.size)}"


@cli.command(epilog=_below("schema manifest > manifest.schema.json", page="manifest/"))
@click.argument("name", type=click.Choice(["manifest", "report"]))
def schema(name: str) -> None:
    """Print a JSON Schema."""
    from tflite_guard.manifest.schema import schema_text

    click.echo(schema_text(f"{name}-v1"), nl=False)


@cli.command(
    short_help="Print what a rule means, and how to fix or accept it.",
    epilog=_below("explain", "explain calibration-range-mismatch", page="rules/"),
)
@click.argument("rule", required=False, shell_complete=_rules)
def explain(rule: str | None) -> None:
    """Print what a RULE means, how it is proven, and how to fix or accept it; without one, list all."""
    from tflite_guard.reports import explanation

    told = explanation.listing() if rule is None else explanation.text(explanation.find(rule))
    click.echo(told, nl=False)


@cli.command(short_help="Run as a step of a GitHub workflow.", epilog=_below(page="github-action/"))
def action() -> None:
    """Run as a step of a GitHub workflow: settings come as INPUT_* and GITHUB_* variables (see action.yml)."""
    from tflite_guard.action import run

    sys.exit(run(os.environ))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with the code of the contract."""
    try:
        _prepare()
        cli.main(
            args=list(arguments) if arguments is not None else None, prog_name="tflite-guard", standalone_mode=False
        )
    except click.ClickException as error:
        error.show()
        sys.exit(UsageError.exit_code)
    except ManifestError as error:
        for problem in error.problems:
            _say(str(problem))
        sys.exit(error.exit_code)
    except GuardError as error:
        _say(f"tflite-guard: {error}")
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        for ending in (signal.SIGINT, *ENDINGS):
            signal.signal(ending, signal.SIG_DFL)  # another one finds nothing here that could tell it
        _say("interrupted")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Whoever read the output has gone; nothing can be told to them.
        _drop_output()
        sys.exit(1)
    except Exception as error:
        _drop_output()
        if isinstance(error, OSError) and is_full(error):
            _say(f"tflite-guard: {error.filename or 'standard output'}: no space left; free some, or write elsewhere")
        elif told := shortage(error):
            _say(f"tflite-guard: {told}")
        else:
            for line in traceback.format_exc().splitlines():
                _say(line)
            _say(f"tflite-guard: this is a bug; please report it with the lines above at {ISSUES}")
        sys.exit(GuardError.exit_code)


def _prepare() -> None:
    _protect()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # in a locale without the marks and dashes of a report
    for ending in ENDINGS:
        if signal.getsignal(ending) == signal.SIG_DFL:  # nohup has the second ignored
            signal.signal(ending, _terminate)


def _say(text: str) -> None:
    """A line on standard error; where that cannot be written either, the exit code still tells."""
    with suppress(OSError):
        click.echo(_safe(text), err=True)


def _drop_output() -> None:
    """Forget what standard output still holds, lest Python tries once more on its way out."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _protect() -> None:
    """Keep this process's environment and memory from the children: same-user processes cannot read them
    through /proc once the process is not dumpable."""
    if sys.platform.startswith("linux"):
        import ctypes

        ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE


def _terminate(*_: object) -> None:
    raise KeyboardInterrupt


def _meant(named: Sequence[str], changed: bool) -> list[str]:
    from tflite_guard.manifest import search

    return search.changed(named) if changed and named else search.find(named)


def _check(
    manifests: Sequence[str],
    options: Options,
    baseline: str | None,
    verbose: bool,
    quiet: bool = False,
    scheduler: str | None = None,
) -> Report:
    if scheduler is not None:
        from tflite_guard import cluster

        with _progress(quiet) as on_event:
            return cluster.check(manifests, options, scheduler, baseline=baseline, on_event=on_event)
    from tflite_guard.checking import check

    with _progress(verbose or quiet) as on_event:
        return check(manifests, options, baseline=baseline, on_event=on_event, on_log=_log if verbose else None)


def _apply_remedies(report: Report, options: Options) -> None:
    """Edit the manifests and say so on standard error: standard output may be a rendering."""
    from tflite_guard.applying import apply

    for line in apply(report, options.data_roots, options.allow_code):
        _say(line)


@contextmanager
def _told(fail_on: str) -> Iterator[None]:
    """Within it, a failure that --fail-on lets pass is told and no more."""
    from tflite_guard.checking import exit_code

    try:
        yield
    except GuardError as error:
        if exit_code(error, fail_on) != 0:
            raise
        _say(f"tflite-guard: {error}")


def _save_operators(
    report: Report, manifests: Sequence[Manifest], options: Options, folder: str, verbose: bool
) -> None:
    """Write the operators and say so on standard error: standard output may be a rendering."""
    from tflite_guard.saving import save

    for line in save(report, manifests, options, folder, _log if verbose else None):
        _say(line)


def _cache_folder(cache_dir: str | None, no_cache: bool) -> str | None:
    from tflite_guard.checking import cache_folder

    if no_cache and cache_dir is not None:
        raise UsageError("--cache-dir and --no-cache exclude each other")
    return None if no_cache else cache_folder(cache_dir)


def _targets(formats: Sequence[str], report_dir: str | None = None) -> list[tuple[str, str | None]]:
    """The renderings asked for, each with its file or None for standard output; what has no place is refused."""
    if report_dir is not None and os.path.lexists(report_dir) and not os.path.isdir(report_dir):
        raise UsageError(f"--report-dir {report_dir}: is a file; name a folder")
    targets = []
    for item in formats or ("text",):
        name, _, file = item.partition("=")
        if name not in FORMATS:
            raise UsageError(f"--format {name}: unknown; there are {', '.join(FORMATS)}")
        if file:
            _require_place(file)
        targets.append((name, file or None))
    if sum(file is None for _, file in targets) > 1:
        raise UsageError(
            "only one --format can go to standard output; give the others a file, as in --format json=report.json"
        )
    return targets


def _require_place(file: str) -> None:
    """Tell before the work, not after it, that its result has no place."""
    folder = os.path.dirname(file) or "."
    if os.path.isdir(file):
        raise UsageError(f"{file}: is a folder; name a file in it")
    if not os.path.isdir(folder):
        raise UsageError(f"{file}: there is no folder {folder}; create it first")


def _write(
    report: Report, targets: Sequence[tuple[str, str | None]], report_dir: str | None, extent: Extent = "folded"
) -> None:
    """Write and print every rendering; one that cannot be written is told only after the others."""
    from tflite_guard.checking import write

    try:
        write(report, [(name, file) for name, file in targets if file is not None], report_dir)
    finally:
        for name in (name for name, file in targets if file is None):
            _print(report, name, extent)


def _write_failure(error: GuardError, targets: Sequence[tuple[str, str | None]], report_dir: str | None) -> None:
    """Leave files that say that there are no results, in place of what an earlier run left there."""
    from tflite_guard.checking import without_results
    from tflite_guard.reports.annotations import problem_annotations

    if ("github", None) in targets and isinstance(error, ManifestError):
        click.echo(problem_annotations(error.problems), nl=False)
    with suppress(EvaluationError):  # the error itself is what to tell
        _write(without_results(error), [target for target in targets if target[1] is not None], report_dir)


def _print(report: Report, name: str, extent: Extent) -> None:
    if name != "text":
        click.echo(FORMATS[name].text(report), nl=False)
        return
    from tflite_guard.reports import terminal

    if not sys.stdout.isatty():
        click.echo(terminal.shown(report, extent=extent), nl=False)
        return
    from rich.console import Console

    Console().print(terminal.View(report, extent))


@contextmanager
def _progress(silent: bool) -> Iterator[Callable[[Any], None] | None]:
    """Live progress on standard error where it is a terminal; none elsewhere, nor where logs are shown."""
    if silent or not sys.stderr.isatty():
        yield None
        return
    from tflite_guard.reports.progress import progress

    with progress() as on_event:
        yield on_event


def _log(text: str) -> None:
    for line in text.splitlines():
        click.echo(f"  | {_safe(line)}", err=True)


def _safe(text: str) -> str:
    return logged(plain(text, 4000))
