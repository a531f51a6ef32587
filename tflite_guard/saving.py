"""`--save-operator`: of each diagnosed variant the first operator that is wrong, in a folder ready for a bug report."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial

from tflite_guard.checking import filed
from tflite_guard.errors import EvaluationError, UsageError
from tflite_guard.files import make_folders, write_atomically
from tflite_guard.manifest.types import Manifest
from tflite_guard.protocol import OPERATOR_FILES, OperatorPort, SavedOperator
from tflite_guard.reports.wording import named_variants
from tflite_guard.results import Report, TensorLoss, VariantResult
from tflite_guard.run.jobs import Options, jobs
from tflite_guard.run.pipeline import OperatorFiles, operators
from tflite_guard.run.workers import OnLog
from tflite_guard.text import figures
from tflite_guard.text.plain import plain

WRONG = 20.0
"""Decibels below which a tensor's quantization alone is wrong."""
FILES = {*OPERATOR_FILES, "README.md"}
README = """# One operator, float and quantized

```text
{facts}
```

The SQNR is that of the quantized operator's output, as reals, to the float one's, over all the examples. Both are given
the same inputs: the integers are the float ones, quantized by the scale and zero point of the input.

- `operator.tflite`: the operator of the float model; `operator_int8.tflite`: that of the converted file
- `inputs.npz`: `float_0`, … for the one, `quantized_0`, … for the other, by place; the first axis counts examples
- `outputs.npz`: what each gives for them, named the same way

```python
import numpy as np
from ai_edge_litert.interpreter import Interpreter
one, inputs, row = Interpreter("operator_int8.tflite"), np.load("inputs.npz"), 0
one.allocate_tensors()
[one.set_tensor(d["index"], inputs[f"quantized_{{i}}"][row]) for i, d in enumerate(one.get_input_details())]
one.invoke(); print(one.get_tensor(one.get_output_details()[{output}]["index"]))
```
"""


def forget(folder: str) -> None:
    """Remove operators of an earlier run, or that came with the commit: links, and folders of their files alone."""
    with suppress(OSError):  # what cannot be removed cannot be written either, which tells
        if os.path.islink(folder):
            os.unlink(folder)
            return
        for name in os.listdir(folder):
            place = os.path.join(folder, name)
            if os.path.islink(place):
                os.unlink(place)
            elif os.path.isdir(place) and FILES.issuperset(os.listdir(place)):
                shutil.rmtree(place)
        os.rmdir(folder)


def require_place(folder: str, options: Options) -> None:
    """Tell before the work that a folder can hold no operators, or that there will be none.

    Raises:
        UsageError: it is a file, or nothing is to be diagnosed.
    """
    if options.diagnose == "never":
        raise UsageError("--save-operator needs a diagnosis; leave out --diagnose never")
    if os.path.lexists(folder) and not os.path.isdir(folder):
        raise UsageError(f"--save-operator {folder}: is a file; name a folder")


def save(
    report: Report, manifests: Sequence[Manifest], options: Options, folder: str, on_log: OnLog | None = None
) -> Iterator[str]:
    """Write the operators of a finished check, `MODEL-VARIANT/` each; gives a line for each diagnosed variant.

    Args:
        report: what the check found.
        manifests: what was checked.
        options: how it was checked.
        folder: where to.
        on_log: called with what TensorFlow and LiteRT said.

    Raises:
        EvaluationError: a file cannot be written.
    """
    names = {id(variant): name for name, variant in named_variants(report)}
    diagnosed = False
    work = jobs(manifests, options)
    if [one.manifest.sha256 for one in work] != [model.manifest.sha256 for model in report.models]:
        yield "no operator saved: a manifest has changed since it was checked; check it again"
        return
    for one, model in zip(work, report.models, strict=True):
        variants = [variant for variant in model.variants if variant.diagnosis is not None]
        wrong = {v.name: tensor.in_file for v in variants if (tensor := first_wrong(v)) and tensor.in_file}
        found = operators(one, wrong, options, on_log) if wrong else {}
        for variant in variants:
            diagnosed = True
            place = os.path.join(folder, names[id(variant)])
            match found.get(variant.name):
                case None:
                    yield f"{place}: nothing saved; no operator by itself is below {WRONG:.0f} dB"
                case EvaluationError() as error:
                    yield f"{place}: nothing saved; {error}"
                case saved:
                    _write(place, saved, readme(report, variant, names[id(variant)], saved.told))
                    yield f"{place}: {plain(saved.told.type)}, {_decibels(saved.told.sqnr)}"
    if not diagnosed:
        yield "nothing was diagnosed, so there is no operator to save"


def first_wrong(variant: VariantResult) -> TensorLoss | None:
    """The tensor whose operator is saved: the primary cause's, else the first of the lowest SQNR alone below 20 dB."""
    tensors = () if variant.diagnosis is None else variant.diagnosis.tensors
    computed = [one for one in tensors if one.in_file is not None and one.operator != "input"]
    causes = {finding.tensor for finding in variant.findings if finding.primary}
    named = [one for one in computed if one.tensor in causes]
    low = [one for one in computed if one.isolated is not None and one.isolated < WRONG]
    return named[0] if named else min(low, key=lambda one: one.isolated or 0.0, default=None)


def readme(report: Report, variant: VariantResult, name: str, told: SavedOperator) -> str:
    """What the files are, in Markdown. What comes from files is inside of a block, on lines that begin otherwise."""
    versions = (f"{key} {value}" for key, value in report.environment.items() if value is not None)
    facts = [
        f"variant    {name}: {variant.quantization or 'a .tflite that was given'}",
        f"operator   {plain(told.type)}, version {told.version} (float: version {told.float_version})",
        f"tensor     {plain(told.tensor)}",
        f"float      {plain(told.float_tensor)}",
        *(f"input {i}    {_port(port)}" for i, port in enumerate(told.inputs)),
        *(f"output {i}   {_port(port)}" for i, port in enumerate(told.outputs)),
        f"SQNR       {_decibels(told.sqnr)} over {told.examples} examples",
        f"difference {told.max_error:.6g} at most, in steps of {told.step:.6g}",
        f"versions   {plain(', '.join(versions))}",
    ]
    return README.format(facts="\n".join(facts), output=told.output)


def _port(port: OperatorPort) -> str:
    shape = ", ".join(map(str, port.shape))
    real = f", real = {port.scale:.9g} * (q {-port.zero_point:+d})" if port.scale else ""
    return f"{plain(port.dtype)} [{shape}]{real}, {plain(port.tensor)}"


def _decibels(sqnr: float | None) -> str:
    return "exact" if sqnr is None else figures.number(sqnr, "sqnr")


def _write(place: str, saved: OperatorFiles, text: str) -> None:
    if os.path.islink(place):  # which may lead anywhere
        filed(place, partial(os.unlink, place))
    filed(place, partial(make_folders, place))
    for name, content in {**saved.files, "README.md": text.encode()}.items():
        path = os.path.join(place, name)
        filed(path, partial(write_atomically, path, content, follow=False))
