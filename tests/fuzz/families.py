"""What is fuzzed: of each kind of input, how one is made wrong and what reads it, as a check does.

`once` makes the input of a seed, reads it, and gives what came of it: `read`, or the kind of the error. It raises
`Broken` where that is not what a user may meet: a traceback, an error that is `internal` or unclear, a hang.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import socket
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any
from unittest import mock

import msgspec
import numpy as np
from msgspec.structs import replace
from PIL import Image

from tests.fuzz import samples
from tests.fuzz.mutation import flipped, jumbled, rewritten, rezipped
from tests.sample import full
from tflite_guard import commenting
from tflite_guard.checking import merged
from tflite_guard.datasets import open_dataset
from tflite_guard.engine import facts
from tflite_guard.engine.tflite import Model
from tflite_guard.errors import EvaluationError, GuardError, ManifestError, UsageError
from tflite_guard.files import sniff
from tflite_guard.files.fetching import Patience, RemoteFiles
from tflite_guard.init import dataset_of
from tflite_guard.judgement import baseline
from tflite_guard.manifest import load
from tflite_guard.manifest.types import FileSpec, ReferenceSpec
from tflite_guard.protocol import Call, DescribeModel, Diagnosed, Limits, Names, RunReference, TensorInfo
from tflite_guard.reports import FORMATS
from tflite_guard.reports.json import read as read_report
from tflite_guard.results import Report, Verdict
from tflite_guard.run import workers
from tflite_guard.run.cache import Cache, key_of
from tflite_guard.run.jobs import Options
from tflite_guard.run.pipeline import run

FOLDERS = ("images", "coco")
"""Sources whose path is a folder."""
SECONDS = 20.0
"""Of the processor's time; what is read takes hundredths."""
CHILD_SECONDS = 60.0
MEMORY = 1 << 30
CHILD_MEMORY = 6 << 30
LONGEST = 1_600
"""Characters of one problem told."""


class Broken(Exception):
    """An input did what none may; the message says what."""


class Children:
    """The processes that load models, for any number of inputs, and a folder whose files they may read."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
        self.folder.chmod(0o755)
        readable = (str(self.folder), str(samples.ROOT / "examples"))
        self._pool = workers.WorkerPool(workers.Confinement(readable, memory_bytes=CHILD_MEMORY), None)
        self.pair = self._pool._new()

    def ask(self, kind: str, request: Any) -> Any:
        return getattr(self.pair, kind).request(request, deadline=time.monotonic() + CHILD_SECONDS)

    def close(self) -> None:
        self._pool.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True)
class Place:
    """Where one input is made and read."""

    folder: Path
    children: Children

    def write(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return str(path)


Family = Callable[[Random, Place], str | None]
"""Makes an input and reads it; gives what came of it, where that is no error raised."""


def once(family: str, seed: int, children: Children) -> str:
    """Make and read the input of one seed. Raises Broken."""
    folder = Path(tempfile.mkdtemp(prefix=f"{family}-{seed}-", dir=children.folder))
    folder.chmod(0o755)
    try:
        with _bounded():
            return FAMILIES[family](Random(f"{family} {seed}"), Place(folder, children)) or "read"
    except GuardError as error:
        _check(error, str(folder))
        return error.kind
    except Broken:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise Broken("".join(traceback.format_exception(error))) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _check(error: GuardError, folder: str) -> None:
    """Raise Broken unless an error is one that a user can do something with."""
    told = [str(one) for one in error.problems] if isinstance(error, ManifestError) else [str(error)]
    if error.kind in ("internal", "timeout"):
        raise Broken(f"{error.kind}: {error}")
    for message in told:
        if not message.strip() or len(message.replace(folder, "")) > LONGEST or "Traceback" in message:
            raise Broken(f"{error.kind}, of {len(message)} characters: {message[:500]!r}")


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """Raise Broken for what takes too much of the processor's time, MemoryError for too much memory."""

    def too_long(_: int, frame: FrameType | None) -> None:
        raise Broken(f"takes more than {SECONDS:.0f} s:\n" + "".join(traceback.format_stack(frame)[-12:]))

    before = signal.signal(signal.SIGPROF, too_long)
    limits = resource.getrlimit(resource.RLIMIT_DATA)
    held = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_DATA, (held + MEMORY, limits[1]))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_DATA, limits)
        signal.signal(signal.SIGPROF, before)


# What a manifest is


def manifest(rng: Random, place: Place) -> None:
    _project(place)
    shutil.copytree(samples.DIGITS, place.folder, dirs_exist_ok=True)
    good = (samples.ROOT / "tests/manifest/good").glob("*.json")
    texts = [(samples.DIGITS / "tflite-guard.json").read_bytes(), *(path.read_bytes() for path in sorted(good))]
    chosen = rng.choice((texts[0], rng.choice(texts)))
    content = flipped(rng, chosen, *texts) if rng.random() < 0.3 else jumbled(rng, json.loads(chosen))
    load(place.write("tflite-guard.json", content))


def _project(place: Place) -> None:
    place.write(".git/HEAD", b"")
    place.write("given/x.npz", samples.npz())
    shutil.copy(samples.TFLITE, place.folder / "model.tflite")


def _manifest(source: str, path: str, **settings: Any) -> dict[str, Any]:
    data = {"source": source, "path": path, "inputs": "image", "labels": "label", **settings}
    model = {
        "name": "m",
        "reference": {"outputs": "given/x.npz"},
        "evaluation": "data",
        "metrics": ["accuracy", "agreement"],
        "tolerances": {"accuracy": {"max_drop": 0.1}},
        "variants": [{"name": "shipped", "tflite": "model.tflite"}],
    }
    return {"schema_version": 1, "datasets": {"data": data}, "models": [model]}


def baselines(rng: Random, place: Place) -> None:
    recorded = {"accuracy": 0.9, "sqnr": "identical"}
    good = {
        "schema_version": 1,
        "tool": {"name": "tflite-guard", "version": "1"},
        "models": {"digits": {"variants": {"int8": {"size_bytes": 1234, "metrics": recorded}}}},
    }
    path = place.write("tflite-guard.baseline.json", jumbled(rng, good))
    found = baseline.read(path)
    baseline.describe(path)
    baseline.compare(_report(), found)


# What a model is


def tflite(rng: Random, place: Place) -> None:
    """What is read of the file itself, which is done without LiteRT."""
    path = place.write("m.tflite", flipped(rng, samples.TFLITE.read_bytes()))
    if sniff(path) != "tflite":
        return
    model = Model.read(path)
    assert model.names
    facts.scales(model.graph, Path(path).read_bytes)
    facts.custom_operators(model.graph)


def tflite_run(rng: Random, place: Place) -> str | None:
    """The same with LiteRT running it: a crash is the child's own."""
    path = place.write("m.tflite", flipped(rng, samples.TFLITE.read_bytes()))
    place.write(".git/HEAD", b"")
    place.write("given/x.npz", samples.npz())
    outputs = np.full((samples.EXAMPLES, 10), 0.1, np.float32)
    place.write("outputs.npz", samples.zipped([("probabilities.npy", samples.npy(outputs))]))
    shutil.move(path, place.folder / "model.tflite")
    made = _manifest("npz", "given/x.npz", preprocess=[{"cast": "float32"}, {"scale": 0.0625}])
    made["models"][0]["reference"] = {"outputs": "outputs.npz"}
    checked = load(place.write("tflite-guard.json", json.dumps(made).encode()))
    with mock.patch.object(workers.WorkerPool, "_new", return_value=place.children.pair):
        options = Options(cache_dir=str(place.folder / "cache"), diagnose="never", timeout=CHILD_SECONDS, jobs=1)
        return _told(run([checked], options))


def keras(rng: Random, place: Place) -> None:
    def change(rng: Random, name: str, content: bytes) -> bytes:
        return jumbled(rng, json.loads(content)) if name.endswith(".json") else flipped(rng, content)

    _described("keras", place.write("m.keras", rezipped(rng, samples.keras(), change)), place)


def hdf5(rng: Random, place: Place) -> None:
    content = samples.hdf5()
    if rng.random() < 0.5:
        config: Any = jumbled(rng, json.loads(samples.keras()["config.json"])).decode("utf-8", "replace")
        config = rng.choice((config, config, config, config.encode(), 7, 0.5, [1, 2], np.zeros((3, 3))))
        with contextlib.suppress(RuntimeError, OSError, ValueError):  # more than an attribute can hold, or NUL
            content = samples.hdf5_with(config)
    _described("keras", place.write("m.h5", content if rng.random() < 0.4 else flipped(rng, content)), place)


def saved_model(rng: Random, place: Place) -> None:
    copied = place.folder / "m"
    shutil.copytree(samples.SAVED_MODEL, copied)
    changed = copied / rng.choice(("saved_model.pb", "saved_model.pb", "variables/variables.index", "fingerprint.pb"))
    changed.write_bytes(flipped(rng, changed.read_bytes()))
    _described("saved_model", str(copied), place)


def _described(kind: Any, path: str, place: Place) -> None:
    place.children.ask("tensorflow", DescribeModel(ReferenceSpec(kind, FileSpec(path))))


# What data is

DIGITS = Names({"image": TensorInfo((None, 8, 8, 1), "float32")}, {"kind": TensorInfo((None, 10), "float32")})
ROWS = Names({"x": TensorInfo((None, 2), "float32")}, {"kind": TensorInfo((None, 3), "float32")})
PIXELS = Names({"image": TensorInfo((None, 8, 8, 3), "float32")}, {"kind": TensorInfo((None, 2), "float32")})


def npz(rng: Random, place: Place) -> None:
    members = {f"{key}.npy": samples.npy(array) for key, array in samples.arrays().items()}
    _data(place, "npz", "data.npz", rezipped(rng, members, _in_npy), DIGITS)


def npy(rng: Random, place: Place) -> None:
    labels = samples.npy(samples.arrays()["label"])
    changed = rng.random() < 0.3
    place.write("labels.npy", _in_npy(rng, "", labels) if changed else labels)
    content = samples.npy(samples.arrays()["image"])
    _data(place, "npy", "data.npy", content if changed else _in_npy(rng, "", content), DIGITS, labels_file="labels.npy")


def _in_npy(rng: Random, _: str, content: bytes) -> bytes:
    """An array with its header's text changed, as often as anything else."""
    if rng.random() < 0.4:
        return flipped(rng, content)
    end = content.index(b"\n")
    head = content[10:end].decode("latin-1")
    old, new = rng.choice(
        (
            ("'descr'", "'descry'"), ("|u1", "|O"), ("|u1", "<f8"), ("u1", "U0"), ("|u1", "<M8[s]"), ("|u1", "V0"),
            ("'|u1'", "[('a', '<f4')]"), ("'|u1'", "('|u1', (2, 2))"), ("False", "True"), ("False", "7"),
            ("(", "(-1, "), ("(", "(" + "1, " * 70), ("(", "(99999999999999999999, "), ("(", "(0, "), ("(", "("  * 300),
            (", }", ", 'x': 1}"), ("}", ""), ("'", "\""), ("12", "1e9"), ("12", "12L"), ("12", "True"),
            ("8", "9" * 5000), ("{", "{" + "[" * 9000), ("shape", "sh\0ape"), ("False", "__import__('os')"),
        )
    )  # fmt: skip
    changed = head.replace(old, new, 1).encode()
    return content[:8] + len(changed).to_bytes(2, "little") + changed + content[end:]


def table(rng: Random, place: Place) -> None:
    columns = {"image": ["a", "b"], "label": "label"}
    _data(place, "csv", "data.csv", rewritten(rng, samples.table()), ROWS, columns=columns)


def pictures(rng: Random, place: Place) -> None:
    for label in "ab":
        for name, content in samples.pictures().items():
            place.write(f"data/{label}/{name}", content)
    name, content = rng.choice(list(samples.pictures().items()))
    broken = flipped(rng, content, *samples.pictures().values())
    _data(place, "images", f"data/{rng.choice('ab')}/{name}", broken, PIXELS, class_order=["a", "b"])


def masks(rng: Random, place: Place) -> None:
    for name, content in samples.pictures().items():
        place.write(f"data/{name}", content)
    broken = flipped(rng, rng.choice(samples.masks()), *samples.masks(), samples.pictures()["1.png"])
    _data(place, "images", "masks/1.png", broken, PIXELS, masks="masks")


def labels(rng: Random, place: Place) -> None:
    for name, content in samples.pictures().items():
        place.write(f"data/{name}", content)
    text = "".join(f"{name},{number % 2}\n" for number, name in enumerate(["file", *samples.pictures()]))
    settings = {"labels_file": "labels.csv"}
    _data(place, "images", "labels.csv", rewritten(rng, text.replace("file,0", "file,label")), PIXELS, **settings)


def boxes(rng: Random, place: Place) -> None:
    images = []
    for number, (name, content) in enumerate(samples.pictures().items()):
        place.write(f"data/{name}", content)
        width, height = Image.open(io.BytesIO(content)).size
        images.append({"id": number, "file_name": name, "width": width, "height": height})
    annotations = [
        {"id": n, "image_id": n % len(images), "category_id": n % 2, "bbox": [0, 1, 2, 3.5], "iscrowd": n % 3 == 0}
        for n in range(6)
    ]
    categories = [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}]
    text = json.dumps({"images": images, "annotations": annotations, "categories": categories})
    wrong = jumbled(rng, json.loads(text)) if rng.random() < 0.7 else flipped(rng, text.encode())
    _data(place, "coco", "boxes.json", wrong, PIXELS, labels_file="boxes.json")


def tfrecord(rng: Random, place: Place) -> None:
    messages = list(samples.records())
    if rng.random() < 0.7:
        at = rng.choice((0, rng.randrange(len(messages))))
        messages[at] = flipped(rng, messages[at], *messages)
    content = samples.tfrecord(messages)
    content = content if rng.random() < 0.6 else flipped(rng, content)
    key, encoding = rng.choice((("image", {}), ("raw", {"encoding": "raw"}), ("png", {"encoding": "png"})))
    features = {key: {"dtype": "float32", "shape": [8, 8, 1], **encoding}, "label": {"dtype": "int64", "shape": []}}
    settings = {"features": features, "inputs": key}
    _data(place, "tfrecord", "data.tfrecord", content, DIGITS, **settings)


def _data(place: Place, source: str, file: str, content: bytes, names: Names, **settings: Any) -> None:
    """Read data as a check does, then look at it as `init` does."""
    _project(place)
    path = place.write(file, content)
    named = "data" if source in FOLDERS else file
    try:
        checked = load(place.write("tflite-guard.json", json.dumps(_manifest(source, named, **settings)).encode()))
        spec = checked.models[0].evaluation
        if source == "tfrecord":
            reference = ReferenceSpec("keras", FileSpec(str(samples.KERAS)))
            place.children.ask("tensorflow", RunReference(reference, replace(spec, labels=None), 1))
        else:
            opened = open_dataset(spec, list(names.inputs))
            for _ in (*opened.batches(5), *opened.labels_of("", 5)):
                pass
    finally:
        with contextlib.suppress(GuardError):
            dataset_of(str(place.folder / "data") if source in FOLDERS else path, str(place.folder), names)


# What is written and read again


def _report() -> Report:
    return read_report(str(samples.ROOT / "tests/golden/report.json"))


def report(rng: Random, place: Place) -> None:
    content = (samples.ROOT / "tests/golden/report.json").read_bytes()
    wrong = flipped(rng, content) if rng.random() < 0.2 else jumbled(rng, json.loads(content))
    _rendered(read_report(place.write("report.json", wrong)))


def _rendered(found: Report) -> None:
    for one in FORMATS.values():
        one.files(found)
    commenting.body(found)
    str(found)


def shards(rng: Random, place: Place) -> None:
    """Whatever the reports of shards say, what is made of them has all that they have, once, and no better verdict."""
    whole = msgspec.to_builtins(full())
    plan = [
        {
            "manifest": model["manifest"]["repository_path"],
            "name": model["name"],
            "variants": [variant["name"] for variant in model["variants"]],
            "pieces": rng.choice((1, 1, 1, 1, 2)),
        }
        for model in whole["models"]
    ]
    wrong, paths = rng.randrange(2), []
    for number in range(2):
        shard = {"number": number + 1, "of": 2, "plan": plan, "pieces": []}
        part = {**whole, "models": whole["models"][number::2], "shard": shard}
        content = _another(rng, part, whole["models"]) if number == wrong else json.dumps(part).encode()
        paths.append(place.write(f"{number}/report.json", content))
    found, parts = merged(paths), [read_report(path) for path in paths]
    given, held = (
        Counter((model.name, variant.name) for one in reports for model in one.models for variant in model.variants)
        for reports in (parts, [found])
    )
    assert given == held
    assert found.verdict is Verdict.worst(model.verdict for one in parts for model in one.models)
    _rendered(found)


def _another(rng: Random, part: dict[str, Any], models: Sequence[Any]) -> bytes:
    """The report of a shard with models that others have, or with one of its parts wrong."""
    if rng.random() < 0.3:
        more = rng.choices(models, k=rng.choice((1, 2)))
        return json.dumps(part | {"models": [*part["models"][rng.randrange(2) :], *more]}).encode()
    victim = rng.choice(("shard", "shard", "models", "environment", "notes"))
    return json.dumps(part | {victim: "@"}).encode().replace(b'"@"', jumbled(rng, part[victim]))


def remote(rng: Random, place: Place) -> None:
    """Whatever a server and the cache hold, a file is what its hash says, or there is none and it is told why."""
    right, key = samples.npz(), sha256(samples.npz()).hexdigest()
    fetched = place.folder / "cache" / "fetched"
    asked = RemoteFiles(fetched, setting="--cache-dir", patience=Patience(stall=0.2, tries=2, wait=0.001))
    fetched.mkdir(parents=True)
    with _server(rng, right) as port:
        uri = f"http://127.0.0.1:{port}/data.npz"
        victim = rng.choice((asked.place(uri, key), fetched / f"{key}.part", fetched))
        if rng.random() < 0.7:
            victim.is_dir() or victim.write_bytes(rng.choice((right, right[:5_000], right * 2)))
            _damage(rng, victim)
        path = asked.get(uri, key)
    assert path.read_bytes() == right


@contextlib.contextmanager
def _server(rng: Random, content: bytes) -> Iterator[int]:
    """The port of a server that answers what it wants, twice, and then well."""
    answers = [_response(rng, content) for _ in range(rng.randrange(3))]
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                with contextlib.suppress(OSError):
                    connection, _ = listening.accept()
                    with connection:
                        connection.settimeout(0.05)
                        connection.recv(2**16)
                        connection.sendall(answers.pop(0) if answers else _head("200 OK", content) + content)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            over.set()
            thread.join()


def _head(status: str, content: bytes, *more: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", *more, "", "")).encode()


def _response(rng: Random, content: bytes) -> bytes:
    """An answer that is wrong: its head, its body, where it leads, or which part it says that it is."""
    size = len(content)
    part = (
        f"Content-Range: bytes {rng.choice((0, 1, 5_000, size, 2**63))}-{size - 1}/{rng.choice(('*', size, 0, 10**30))}"
    )
    where = rng.choice(
        (
            "", "file:///etc/passwd", "http://[::1", "//169.254.169.254/x", "https://localhost/x", "/data.npz",
            "http://127.0.0.1:99999/", "data:,x", "http://user:word@127.0.0.1/", "\u0000", "https://" + "a." * 9_000,
        )
    )  # fmt: skip
    head = rng.choice(
        (
            _head("200 OK", content),
            _head("200 OK", content * 2),
            _head("200 OK", content, "Content-Encoding: gzip"),
            _head("200 OK", content, "Transfer-Encoding: chunked"),
            _head("206 Partial Content", content, part),
            _head(f"{rng.choice((301, 302, 307, 308))} Moved", b"", f"Location: {where}"),
            _head(f"{rng.choice((100, 199, 204, 304, 400, 401, 404, 408, 416, 429, 500, 999))} \x1b[31m##[error]", b""),
        )
    )
    return flipped(rng, head) + (flipped(rng, content) if rng.random() < 0.5 else content)


def cache_entry(rng: Random, place: Place) -> str | None:
    """Whatever is wrong with an entry, it is there as it was stored, or absent and can be stored again."""
    key, stored = key_of("fuzz"), {"model.tflite": samples.TFLITE, "0.npy": samples.SAVED_MODEL / "fingerprint.pb"}
    meta = {"files": ["model.tflite"], "numbers": [1, 0.5, {"a": None}]}
    kept = Cache(place.folder / "cache")
    entry = kept.put(key, stored, meta)
    _spoil(rng, entry.folder)
    met = kept.get(key)
    for found in (met, kept.put(key, stored, meta), kept.get(key)):
        if found is not None or met is not None:
            assert found is not None
            assert found.meta == meta
            assert set(found.files) == set(stored)
            assert all((found.folder / name).read_bytes() == path.read_bytes() for name, path in stored.items())
    assert kept.get(key) is not None
    kept.prune()
    return None if met else "absent"


def _spoil(rng: Random, folder: Path) -> None:
    victim = rng.choice((*folder.iterdir(), folder / "entry.json", folder / "entry.json", folder, folder.parent))
    if victim.name == "entry.json" and rng.random() < 0.4:
        victim.write_bytes(jumbled(rng, json.loads(victim.read_bytes())))
    else:
        _damage(rng, victim)


def _damage(rng: Random, victim: Path) -> None:
    """Change some of a file's bytes, or put something else in the place of it or of a folder."""
    content = victim.read_bytes() if victim.is_file() else b""
    action = rng.randrange(9 if content else 6)
    if action >= 6:
        victim.write_bytes(flipped(rng, content))
        return
    if victim.is_dir():
        shutil.rmtree(victim)
    else:
        victim.unlink(missing_ok=True)
    match action:
        case 0:
            os.mkfifo(victim)
        case 1:
            victim.mkdir()
        case 2:
            victim.symlink_to(rng.choice((samples.TFLITE, "/dev/zero", "/dev/tty", victim, victim.parent)))
        case 3:
            victim.write_bytes(b"")
        case 4:
            victim.write_bytes(content or b"x")
            victim.chmod(0)


# What a child answers


class _Gone:
    """A process that has said all that it will."""

    pid = 2**22 + 1
    stdin: Any
    stdout: Any

    def poll(self) -> int:
        return 0

    def wait(self, timeout: float | None = None) -> int:
        return 0

    def send_signal(self, how: int) -> None:
        pass


class Liar(workers.Worker):
    """A worker whose child gives answers from before, one of them wrong."""

    said: dict[str, tuple[bytes, dict[str, bytes]]]
    wrong: tuple[str, Random]

    def _start(self) -> workers._Child:
        folder = tempfile.mkdtemp(prefix="liar-", dir=self._scratch)
        process = _Gone()
        process.stdin, process.stdout = self._file(), self._file()
        return workers._Child(process, folder, self._file())  # type: ignore[arg-type]

    def _file(self) -> Any:
        return tempfile.TemporaryFile(dir=self._scratch)

    def _send(self, child: workers._Child, message: Limits | Call) -> None:
        if not isinstance(message, Call):
            return
        asked = type(message.request).__name__
        line, files = self.said.get(asked, (b'{"error": {"kind": "crash", "message": "it is not here"}}', {}))
        victim, rng = self.wrong
        if asked == victim:
            line = jumbled(rng, json.loads(line)).replace(b"\n", b" ")
        spoiled = rng.choice(sorted(files)) if files and victim == "files" else None
        for name, content in files.items():
            Path(message.out, name).write_bytes(flipped(rng, content) if name == spoiled else content)
        answers = self._file()
        answers.write(line + b"\n")
        answers.seek(0)
        child.process.stdout, before = answers, child.process.stdout
        before.close()


def answer(rng: Random, place: Place) -> str | None:
    """Whatever a child says, it is its model's error or figures, and the report is written."""
    victim = rng.choice(("RunReference", "Evaluate", "Evaluate", "Evaluate", "Diagnose", "Diagnose"))
    said = _said()
    with (
        mock.patch.object(Liar, "said", said, create=True),
        mock.patch.object(Liar, "wrong", (victim, rng), create=True),
        mock.patch.object(workers, "Worker", Liar),
    ):
        found = run([load(str(_light(place.folder)))], Options(diagnose="always", timeout=CHILD_SECONDS, jobs=1))
    _rendered(found)
    written = place.write("report.json", FORMATS["json"].text(found).encode())
    try:
        _rendered(read_report(written))
    except UsageError as error:
        raise Broken(f"what was written cannot be read: {error}") from None
    return _told(found)


def _told(found: Report) -> str | None:
    """The kind of the error that a report tells, if it tells one. Raises Broken for one that is none to tell."""
    errors = [one for model in found.models for one in (model.error, *(variant.error for variant in model.variants))]
    kinds = []
    for error in errors:
        if error is not None:
            _check(EvaluationError(error.kind, error.message), "")
            kinds.append(error.kind)
    return next(iter(kinds), None)


def _light(folder: Path) -> Path:
    """A project whose one variant is diagnosed with its .tflite as the reference, too, since no child looks at it."""
    (folder / ".git").mkdir(exist_ok=True)
    for name in ("data", "app"):
        shutil.copytree(samples.DIGITS / name, folder / name, dirs_exist_ok=True)
    made = _manifest("npz", "data/evaluation.npz", preprocess=[{"cast": "float32"}, {"scale": 0.0625}])
    made["models"][0] |= {
        "reference": {"tflite": "app/digits_int8.tflite"},
        "tolerances": {"accuracy": {"max_drop": 0.1}, "agreement": {"min": 1.0}},
        "variants": [{"name": "shipped", "tflite": "app/digits_int8.tflite"}],
    }
    path = folder / "tflite-guard.json"
    path.write_text(json.dumps(made))
    return path


class Recorder(workers.Worker):
    """A worker that keeps what its child answers, with the files."""

    kept: dict[str, tuple[bytes, dict[str, bytes]]]

    def _send(self, child: workers._Child, message: Limits | Call) -> None:
        if isinstance(message, Call):
            self._asked = message
        super()._send(child, message)

    def _receive(self, child: workers._Child, deadline: float | None) -> Any:
        message = super()._receive(child, deadline)
        if message.progress is None and message.at is None:
            out = Path(self._asked.out)
            files = {path.name: path.read_bytes() for path in out.iterdir()} if self._asked.out else {}
            self.kept[type(self._asked.request).__name__] = (b'{"result": ' + bytes(message.result) + b"}", files)
        return message


@cache
def _said() -> dict[str, tuple[bytes, dict[str, bytes]]]:
    """What children answer for the light project, and a diagnosis that has something of everything."""
    kept: dict[str, tuple[bytes, dict[str, bytes]]] = {}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        path = _light(Path(name))
        made = json.loads(path.read_text())
        made["models"][0]["reference"] = {"outputs": "recorded.npz"}
        path.write_text(json.dumps(made))
        with np.load(samples.DIGITS / "data/evaluation.npz") as data:
            recorded = np.eye(10, dtype=np.float32)[data["label"]] * 0.8 + 0.02
        content = samples.zipped([("probabilities.npy", samples.npy(recorded))])
        Path(name, "recorded.npz").write_bytes(content)
        with (
            mock.patch.object(Recorder, "kept", kept, create=True),
            mock.patch.object(workers, "Worker", Recorder),
        ):
            _told(run([load(str(path))], Options(diagnose="never", jobs=1)))
    shown = next(one for model in full().models for one in model.variants if one.diagnosis and one.diagnosis.tensors)
    assert shown.diagnosis is not None
    told = Diagnosed(shown.diagnosis, tuple(one for one in shown.findings if one.primary), shown.remedies)
    kept["Diagnose"] = (msgspec.json.encode({"result": told}), {})
    line, files = kept["RunReference"]
    answered = json.loads(line)
    answered["result"]["names"] = msgspec.to_builtins(DIGITS)
    kept["RunReference"] = (json.dumps(answered).encode(), files)
    return kept


FAMILIES: dict[str, Family] = {
    "manifest": manifest,
    "baseline": baselines,
    "tflite": tflite,
    "tflite-run": tflite_run,
    "keras": keras,
    "hdf5": hdf5,
    "saved-model": saved_model,
    "npz": npz,
    "npy": npy,
    "csv": table,
    "images": pictures,
    "masks": masks,
    "labels": labels,
    "coco": boxes,
    "tfrecord": tfrecord,
    "report": report,
    "shards": shards,
    "remote": remote,
    "cache": cache_entry,
    "answer": answer,
}
