"""From a manifest's path to a Manifest, or to every problem it has."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from itertools import islice
from typing import Any, cast

from msgspec.structs import replace

from tflite_guard import files
from tflite_guard.errors import ManifestError, ManifestProblem, UsageError, first_of
from tflite_guard.files import uris
from tflite_guard.manifest import jsontext, meaning
from tflite_guard.manifest.gaps import gaps
from tflite_guard.manifest.jsontext import Document, quoted
from tflite_guard.manifest.location import displayed, utf8
from tflite_guard.manifest.meaning import Context
from tflite_guard.manifest.meaning.datasets import ONLY_KEY, SHARDED
from tflite_guard.manifest.rejections import Rejection, in_words, limited_effort
from tflite_guard.manifest.schema import schema, validator
from tflite_guard.manifest.tree import Node, without_rejected
from tflite_guard.manifest.types import (
    CalibrationOptions,
    Conversion,
    DatasetSpec,
    EvaluationOptions,
    FileSpec,
    FunctionSpec,
    Ignore,
    Judgement,
    Manifest,
    ModelSpec,
    Places,
    ReferenceSpec,
    Tolerance,
    VariantSpec,
)
from tflite_guard.manifest.views import (
    MetricView,
    ModelView,
    ToleranceView,
    VariantView,
    expanded_size,
    is_recipe_file,
    kind_of_model,
    model_views,
)
from tflite_guard.vocabulary import BOX_OUTPUTS, MANIFEST_VERSION, QUANTIZATIONS, TOLERANCES, ReferenceKind, StateUse

MAX_FIGURES = 200_000
"""Metrics and tolerances of variants, with all defaults written out."""
_REJECTED_MAX = 1_000
"""Values that do not fit the schema: beyond, nothing is said of the rest, which is hardly meant for a manifest."""


def load(
    path: str, *, data_roots: Sequence[str] = (), allow_code: bool = False, content: bytes | None = None
) -> Manifest:
    """Read and check a manifest.

    Files that it names must lie under its git root (without git: its folder) or one of `data_roots`, which are folders
    or, for files to fetch, URIs. Nothing is fetched here.
    `allow_code` permits Python sources and metrics, which are not imported here. `content` is what the file is going
    to hold, in place of what it holds. Raises ManifestError with every problem, in the order of the file, and
    UsageError for a data root with a name that is not UTF-8, or that is a URI of no use.
    """
    data = jsontext.read(path, data_roots) if content is None else content
    document = jsontext.parse(data, path)
    _check_version(document)
    context = _context(path, data_roots, allow_code)
    with limited_effort():
        tree, problems = without_rejected(document, _rejections)
        if tree:
            _check_size(tree)
        models = model_views(tree, context.folder, context.quantization_aware) if tree else []
        if tree:
            meaning.check(tree, models, context)
    if problems or context.problems or tree is None:
        raise ManifestError(first_of([*problems, *context.problems]))
    datasets = _datasets(tree, context)
    built = tuple(_model(model, datasets, context) for model in models)
    return Manifest(path, context.folder, hashlib.sha256(data).hexdigest(), built, tuple(context.roots[1:]))


def _context(path: str, data_roots: Sequence[str], allow_code: bool) -> Context:
    folder = os.path.dirname(os.path.abspath(path))
    prefixes = uris.prefixes(data_roots)
    for prefix in prefixes:
        if why := uris.refused_prefix(prefix):
            raise UsageError(f"--data-root {displayed(uris.without_secrets(prefix))}: {why}")
    roots = (files.find_root(folder), *map(os.path.realpath, uris.folders(data_roots)))
    for root in roots[1:]:
        if not utf8(root):
            raise UsageError(f"--data-root {displayed(root)}: is not UTF-8; rename what is written as \\x…")
    return Context(folder, roots, prefixes, allow_code)


def _check_size(tree: Node) -> None:
    """Defaults hold for every model, so a short manifest can stand for more than anybody could run, or read."""
    models = tree.get("models")
    if models and (size := expanded_size(tree)) > MAX_FIGURES:
        message = f"with their defaults the models have {size:,} metrics and tolerances of variants, more than "
        raise ManifestError([models.key_problem(f"{message}{MAX_FIGURES:,}; split it into several manifests")])


def _check_version(document: Document) -> None:
    """Another version is one problem; what else differs would be noise."""
    version = document.value.get("schema_version", MANIFEST_VERSION)
    if version != MANIFEST_VERSION or isinstance(version, bool):
        newer = isinstance(version, int) and version > MANIFEST_VERSION
        advice = "; install a newer one (pip install -U tflite-guard)" if newer else ""
        message = (
            f'"schema_version" is {quoted(version)}; this tflite-guard reads the number {MANIFEST_VERSION}{advice}'
        )
        raise ManifestError([ManifestProblem(document.name, *document.at_value(("schema_version",)), message)])


def _rejections(tree: Node) -> list[Rejection]:
    left_open = dict(gaps(tree))
    found = [] if _is_valid(tree.value()) else _found(tree)
    return [*left_open.items(), *((pointer, problem) for pointer, problem in found if pointer not in left_open)]


def _is_valid(value: Any) -> bool:
    """Whether a manifest is valid by the schema; False too where that takes a second look."""
    try:
        return validator("manifest-v1").is_valid(value)
    except ValueError:  # a lone surrogate in a key
        return False


def _found(tree: Node) -> list[Rejection]:
    from jsonschema import Draft202012Validator  # knows what is wrong; takes a tenth of a second to load

    errors = Draft202012Validator(schema("manifest-v1")).iter_errors(tree.value())
    found = [rejection for error in islice(errors, _REJECTED_MAX) for rejection in in_words(error, tree)]
    if next(errors, None) is not None:
        raise ManifestError(first_of((problem for _, problem in found if problem), more=True))
    return found


def _datasets(tree: Node, context: Context) -> dict[str, DatasetSpec]:
    return {name: _dataset(name, node, context) for name, node in tree.content["datasets"].members()}


def _dataset(name: str, node: Node, context: Context) -> DatasetSpec:
    written = node.value()
    source, path = written["source"], written["path"]
    python = source == "python"
    shards = context.matching(path) if source in SHARDED else None
    return DatasetSpec(
        name=name,
        source=source,
        file=None if python or shards else _named(written, "path", context),
        inputs=written.get("inputs", ONLY_KEY.get(source, "")),
        labels=written.get("labels"),
        group=written.get("group"),
        slices=tuple(written.get("slices", ())),
        preprocess=_steps(written.get("preprocess", [])),
        limit=_whole(written.get("limit")),
        seed=int(written.get("seed", 0)),
        class_order=tuple(written["class_order"]) if "class_order" in written else None,
        labels_file=_named(written, "labels_file", context, pin="labels_sha256"),
        masks=_named(written, "masks", context, pin="masks_sha256"),
        image_suffix=written.get("image_suffix", ""),
        mask_suffix=written.get("mask_suffix", ""),
        columns=written.get("columns"),
        features=written.get("features"),
        function=FunctionSpec(path, context.folder) if python else None,
        shards=tuple(_file(shard, context, None) for shard in shards or ()),
        pictures=written.get("pictures", python or _in_repository(path, context)),
        places=_places(node, maps=("inputs", "labels", "preprocess")),
    )


def _places(node: Node, values: Sequence[str] = (), maps: Sequence[str] = ()) -> Places:
    """Where a part stands, and some of its values; of maps from a model's names, the maps and these names."""
    places = {"": node.place}
    for key in (*values, *maps):
        if (found := node.get(key)) is not None:
            places[key] = found.place
            places |= {f"{key}/{name}": inner.key_place for name, inner in found.members() if key in maps}
    return places


def _in_repository(written: str, context: Context) -> bool:
    """What is kept out of the repository is not to be seen by everybody who may see a report."""
    return not uris.is_uri(written) and files.under(context.real_path(written), context.roots[0])


def _named(written: dict[str, Any], key: str, context: Context, pin: str = "sha256") -> FileSpec | None:
    """The file that a key names, with its hash; None without the key."""
    return _file(written[key], context, written.get(pin)) if key in written else None


def _file(written: str, context: Context, sha256: str | None) -> FileSpec:
    uri = written if uris.is_uri(written) else None
    return FileSpec(uri or context.real_path(written), sha256.lower() if sha256 else None, uri)


def _steps(
    written: list[dict[str, Any]] | dict[str, list[dict[str, Any]]],
) -> tuple[dict[str, Any], ...] | dict[str, tuple[dict[str, Any], ...]]:
    if isinstance(written, dict):
        return {name: tuple(map(_step, steps)) for name, steps in written.items()}
    return tuple(map(_step, written))


def _step(written: dict[str, Any]) -> dict[str, Any]:
    """JSON's 224.0 is a whole number too; what counts axes or pixels should see 224."""
    ((name, value),) = written.items()
    if isinstance(value, dict) and "size" in value:
        return {name: value | {"size": [int(size) for size in value["size"]]}}
    if isinstance(value, list):
        return {name: [int(number) for number in value]}
    return {name: int(value)} if name == "expand_dims" else written


def _model(view: ModelView, datasets: dict[str, DatasetSpec], context: Context) -> ModelSpec:
    reference = _reference(view.node.content["reference"], context)
    ignored = _ignore(view.node.get("ignore"))
    return ModelSpec(
        name=view.name,
        reference=reference,
        evaluation=datasets[str(view.settings["evaluation"].value())],
        metrics=tuple(
            replace(one.spec, places=_places(one.node or view.node, values=("output", *BOX_OUTPUTS)))
            for one in view.metrics
        ),
        variants=tuple(
            _variant(variant, reference, ignored, view.metrics, datasets, context) for variant in view.variants
        ),
        state=cast(StateUse, view.settings["state"].value()) if "state" in view.settings else "reset",
        line=view.node.line,
        ignore=ignored,
        reference_tolerances={name: _tolerance(found) for name, found in view.reference_tolerances.items()},
    )


def _ignore(node: Node | None) -> tuple[Ignore, ...]:
    return tuple(Ignore(**entry.value()) for entry in (node.elements() if node else ()))


def _reference(node: Node, context: Context) -> ReferenceSpec:
    kind, path = kind_of_model(node)
    written = node.value()
    return ReferenceSpec(
        kind=cast(ReferenceKind, kind),
        file=_file(str(path.value()), context, written.get("sha256")),
        signature=written.get("signature"),
        input_shapes={name: tuple(map(int, shape)) for name, shape in written.get("input_shapes", {}).items()},
        # Without a name of its own, a model is the same wherever it stands.
        places=_places(node, values=("signature",), maps=("input_shapes",))
        if {"signature", "input_shapes"} & written.keys()
        else {},
    )


def _variant(
    view: VariantView,
    reference: ReferenceSpec,
    ignored: tuple[Ignore, ...],
    metrics: Sequence[MetricView],
    datasets: dict[str, DatasetSpec],
    context: Context,
) -> VariantSpec:
    own = {key: node.value() for key, node in view.own.items()}
    require_integer = _require_integer(view)
    computed = {one.spec.name for one in metrics if view.computes(one.spec)}
    return VariantSpec(
        name=view.name,
        conversion=_conversion(view, own, reference, datasets, context),
        evaluation=EvaluationOptions(
            kernels=view.kernels,
            observed_outputs=_named(own, "observed_outputs", context, pin="observed_sha256"),
            integer=_integer(own.get("quantization"), require_integer),
            confidence=view.confidence,
        ),
        judgement=Judgement(
            tolerances={name: _tolerance(found) for name, found in view.tolerances.items() if name in computed},
            ignore=(*ignored, *_ignore(view.own.get("ignore"))),
            require_integer=require_integer,
            observed_tolerance=own.get("observed_tolerance"),
        ),
        line=view.node.line,
    )


def _conversion(
    view: VariantView,
    own: dict[str, Any],
    reference: ReferenceSpec,
    datasets: dict[str, DatasetSpec],
    context: Context,
) -> Conversion:
    if "tflite" in own:
        places = {"signature": view.own["signature"].place} if "signature" in own else {}
        return Conversion(tflite=_named(own, "tflite", context), signature=own.get("signature"), places=places)
    source = _reference(view.own["source"], context) if "source" in view.own else reference
    return Conversion(
        quantization=own.get("quantization"),
        recipe=_recipe(own, context),
        source=source if source.kind != "outputs" else None,
        io=own.get("io", "float32"),
        calibration=_calibration(view, datasets),
        calibration_options=_calibration_options(view),
        keep_float=tuple(own.get("keep_float", ())),
        equalize=tuple(own.get("equalize", ())),
    )


def _integer(quantization: str | None, required: bool) -> bool | None:
    """Whether operators are meant to compute in integers; None where neither a quantization nor a demand says."""
    if required or quantization is None:
        return required or None
    return QUANTIZATIONS[quantization].integer


def _recipe(own: dict[str, Any], context: Context) -> str | FileSpec | None:
    written: str | None = own.get("recipe")
    return _named(own, "recipe", context) if written and is_recipe_file(written) else written


def _calibration(view: VariantView, datasets: dict[str, DatasetSpec]) -> DatasetSpec | None:
    """None where no calibration data has a say, so that editing it does not make such a variant anew."""
    name = view.settings.get("calibration")
    return datasets[str(name.value())] if name and view.calibrated else None


def _calibration_options(view: VariantView) -> CalibrationOptions:
    options = {key: node.value() for key, node in view.calibration_options.items()}
    if not view.calibrated:
        return CalibrationOptions()
    samples = _whole(options.get("samples"))
    if not view.measurable:
        return CalibrationOptions(samples)
    clip = options.get("clip_percentile")
    return CalibrationOptions(samples, clip, options.get("ranges", "measured" if clip is not None else "converter"))


def _require_integer(view: VariantView) -> bool:
    """An inherited demand concerns the variants that ask for integers, and existing .tflite files."""
    node = view.settings.get("require_integer")
    quantization = QUANTIZATIONS.get(view.text("quantization") or "")
    meant = "require_integer" in view.own or "tflite" in view.own or view.calibrated
    asks = quantization.integer if quantization else meant
    return bool(node and node.value()) and asks


def _tolerance(view: ToleranceView) -> Tolerance:
    lines = {key: view.keys[key].line for key in TOLERANCES if key in view.keys}
    return Tolerance(**{key: node.value() for key, node in view.keys.items()}, line=view.node.line, lines=lines)


def _whole(written: float | None) -> int | None:
    return None if written is None else int(written)
