from __future__ import annotations

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from engine_models import Case

from tflite_guard.engine.safety import OPERATORS as OPERATORS_FILE
from tflite_guard.engine.safety import check_model_file, judged_operators
from tflite_guard.errors import ModelFileError
from tflite_guard.manifest.types import FileSpec, ReferenceKind, ReferenceSpec


def refused(kind: ReferenceKind, path: Path, message: str, error_kind: str = "model-file") -> None:
    with pytest.raises(ModelFileError, match=message) as caught:
        check_model_file(ReferenceSpec(kind, FileSpec(str(path))))
    assert caught.value.kind == error_kind
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def accepted(kind: ReferenceKind, path: Path, *, allow_code: bool = False) -> None:
    check_model_file(ReferenceSpec(kind, FileSpec(str(path))), allow_code=allow_code)


def repacked(source: Path, out: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out


def test_good_models_pass(conv: Case, branches: Case, tmp_path: Path) -> None:
    accepted("keras", conv.path)
    accepted("keras", branches.path)
    keras.saving.load_model(conv.path).save(tmp_path / "m.h5")
    accepted("keras", tmp_path / "m.h5")
    accepted("saved_model", Path(conv.source.reference.export(str(tmp_path / "export"))))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (pickle.dumps({"weights": [1.0, 2.0]}), "is a Python pickle"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git LFS pointer.*git lfs pull"),
        (b"hello, world", "is not a model of a known kind"),
        (b"\x1c\0\0\0TFL3" + b"\0" * 40, r'is a \.tflite file; refer to it as \{"tflite"'),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 100, r"truncated or damaged \.h5"),
        (b"PK\x03\x04" + b"\0" * 100, "truncated or damaged zip"),
    ],
)
def test_other_files_say_what_they_are(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(content)
    refused("keras", path, message)


def test_missing_files_and_folders(conv: Case, tmp_path: Path) -> None:
    refused("keras", tmp_path / "none.keras", "cannot be read: No such file")
    refused("saved_model", tmp_path, r"without saved_model\.pb; export the model")
    refused("saved_model", conv.path, r'is a \.keras file; refer to it as \{"keras"')


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
def test_a_truncated_keras_file(conv: Case, tmp_path: Path, share: float) -> None:
    content = conv.path.read_bytes()
    path = tmp_path / "m.keras"
    path.write_bytes(content[: int(len(content) * share)])
    refused("keras", path, "truncated or damaged")


def test_a_truncated_h5_file(conv: Case, tmp_path: Path) -> None:
    keras.saving.load_model(conv.path).save(tmp_path / "m.h5")
    content = (tmp_path / "m.h5").read_bytes()
    (tmp_path / "m.h5").write_bytes(content[: len(content) // 2])
    refused("keras", tmp_path / "m.h5", r"truncated or damaged \.h5")


def test_a_damaged_member(conv: Case, tmp_path: Path) -> None:
    content = bytearray(conv.path.read_bytes())
    with zipfile.ZipFile(conv.path) as archive:
        info = archive.getinfo("model.weights.h5")
    for i in range(200, 260):
        content[info.header_offset + i] ^= 0xFF
    path = tmp_path / "m.keras"
    path.write_bytes(bytes(content))
    refused("keras", path, "damaged")


def test_a_zip_bomb(conv: Case, tmp_path: Path) -> None:
    def bomb(members: dict[str, bytes]) -> None:
        members["assets/zeros"] = bytes(300 << 20)

    path = repacked(conv.path, tmp_path / "m.keras", bomb)
    assert path.stat().st_size < 1 << 20
    refused("keras", path, "as a zip bomb does", "unsafe-model")


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "..\\evil"])
def test_names_that_leave_the_folder(conv: Case, tmp_path: Path, name: str) -> None:
    path = repacked(conv.path, tmp_path / "m.keras", lambda members: members.update({name: b"x"}))
    refused("keras", path, "outside its folder", "unsafe-model")


@pytest.mark.parametrize("member", ["model.weights.h5"])
def test_a_member_that_is_missing(conv: Case, tmp_path: Path, member: str) -> None:
    path = repacked(conv.path, tmp_path / "m.keras", lambda members: members.pop(member))
    refused("keras", path, f"holds no {member}")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_lambda_layers_are_refused_unless_code_is_allowed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"m{suffix}"
    inner = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x * 2, name="twice")])
    keras.Sequential([keras.Input((2,)), inner]).save(path)
    refused("keras", path, r"a Lambda layer \(twice\), which runs code .*--allow-code", "unsafe-model")
    accepted("keras", path, allow_code=True)


@pytest.mark.parametrize("name", ["TFSMLayer", "TorchModuleWrapper", "__lambda__"])
def test_layers_that_load_programs_are_refused(conv: Case, tmp_path: Path, name: str) -> None:
    def swap(members: dict[str, bytes]) -> None:
        config = json.loads(members["config.json"])
        config["config"]["layers"][1]["class_name"] = name
        members["config.json"] = json.dumps(config).encode()

    refused("keras", repacked(conv.path, tmp_path / "m.keras", swap), f"a {name} layer", "unsafe-model")


def keras2_config(name: str, **config: Any) -> str:
    layer = {"class_name": name, "config": {"name": "op", **config}, "inbound_nodes": [], "name": "op"}
    return json.dumps({"class_name": "Functional", "config": {"name": "m", "layers": [layer]}})


def keras2_h5(path: Path, config: str) -> Path:
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = config
        file.attrs["keras_version"] = "2.15.0"
    return path


FUNCTIONS = [
    "io.read_file", "io.gfile.remove", "raw_ops.ReadFile", "compat.v1.py_func", "py_function", "numpy_function",
    "keras.utils.get_file", "keras.models.load_model", "saved_model.load", "load_op_library", "data.Dataset", "print",
    "audio.write_file", "math.write_file", "compat.v1.read_file", "compat.v1.Print", "compat.v1.raw_ops.ReadFile",
    "compat.v1.enable_v2_behavior", "compat.v1.summary.scalar", "Module", None, ["math.sin"],
]  # fmt: skip


@pytest.mark.parametrize("layer", ["TFOpLambda", "SlicingOpLambda"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_keras_2_functions_that_do_more_than_compute_are_refused(tmp_path: Path, layer: str, function: Any) -> None:
    path = keras2_h5(tmp_path / "m.h5", keras2_config(layer, function=function))
    refused("keras", path, f"holds a {layer} layer of .*--allow-code", "unsafe-model")
    accepted("keras", path, allow_code=True)


@pytest.mark.parametrize("layer", ["TensorFlowOpLayer", "ClassMethod"])
def test_keras_2_layers_of_raw_operators_are_refused(conv: Case, tmp_path: Path, layer: str) -> None:
    config = keras2_config(layer, node_def="{}")
    refused("keras", keras2_h5(tmp_path / "m.h5", config), rf"a {layer} layer \(op\)", "unsafe-model")
    zipped = repacked(conv.path, tmp_path / "m.keras", lambda members: members.update({"config.json": config.encode()}))
    refused("keras", zipped, rf"a {layer} layer \(op\)", "unsafe-model")


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5")
def test_keras_2_functions_that_compute_are_fine(tmp_path: Path) -> None:
    import tf_keras

    x = tf_keras.Input((4,), name="x")
    y = tf.concat([tf.math.sin(x), tf.nn.relu(x[:, :2]) * 2 + 1], 1)
    y = tf.transpose(tf.reshape(tf.clip_by_value(y, -1.0, 1.0), (-1, 2, 3)), (0, 2, 1))
    tf_keras.Model(x, tf.reduce_mean(tf.cast(y, tf.float32), 1) - tf.linalg.norm(x)).save(tmp_path / "m.h5")
    with h5py.File(tmp_path / "m.h5") as file:
        assert file.attrs["model_config"].count("OpLambda") > 8
    accepted("keras", tmp_path / "m.h5")


def test_deep_configurations_are_refused_for_what_they_are(conv: Case, tmp_path: Path) -> None:
    deep = b'{"a":' * 600 + b"1" + b"}" * 600
    path = repacked(conv.path, tmp_path / "m.keras", lambda members: members.update({"config.json": deep}))
    refused("keras", path, "nested more than 500 levels deep", "too-deep")


def test_models_within_models_are_looked_through(tmp_path: Path) -> None:
    def nested(layer: Any) -> Path:
        for _ in range(40):
            layer = keras.Sequential([keras.Input((2,)), layer])
        layer.save(tmp_path / "m.keras")
        return tmp_path / "m.keras"

    accepted("keras", nested(keras.layers.Dense(2)))
    program = keras.layers.Lambda(lambda x: x * 2, name="twice")
    refused("keras", nested(program), r"a Lambda layer \(twice\), which runs code", "unsafe-model")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_configurations_that_are_not_json(conv: Case, tmp_path: Path, content: bytes) -> None:
    path = repacked(conv.path, tmp_path / "m.keras", lambda members: members.update({"config.json": content}))
    refused("keras", path, "damaged")


@pytest.mark.parametrize("config", [7, 7.5, [1, 2], "x", None, {}, {"class_name": 7}, {"class_name": ["Lambda"]}])
def test_configurations_of_nothing_that_is_a_model(conv: Case, tmp_path: Path, config: Any) -> None:
    text = json.dumps(config)
    path = repacked(conv.path, tmp_path / "m.keras", lambda members: members.update({"config.json": text.encode()}))
    refused("keras", path, "configuration that is not a model's")
    for stored in (text, 7 if config is None else config):
        with h5py.File(tmp_path / "m.h5", "w") as file:
            file.attrs["model_config"] = stored if isinstance(stored, str | int | float | list) else text
        refused("keras", tmp_path / "m.h5", "configuration that is not a model's|damaged")


def external_link(file: Any) -> None:
    file["layers/stolen"] = h5py.ExternalLink("/etc/passwd", "/")


def soft_link(file: Any) -> None:
    file["layers/stolen"] = h5py.SoftLink("/layers")


def external_storage(file: Any) -> None:
    file.create_dataset("layers/stolen", (8,), "u1", external=[("/etc/passwd", 0, 8)])


def virtual(file: Any) -> None:
    layout = h5py.VirtualLayout((4,), "f4")
    layout[:] = h5py.VirtualSource("/etc/passwd", "data", (4,))
    file.create_virtual_dataset("layers/stolen", layout)


def bomb(file: Any) -> None:
    file.create_dataset("layers/stolen", (1 << 40,), "f4", chunks=(1024,), compression="gzip")


FAULTS = [
    (external_link, r"links to another file \(/etc/passwd\)"),
    (soft_link, "is a symbolic link"),
    (external_storage, "keeps its data in another file"),
    (virtual, "takes its data from other datasets"),
    (bomb, "declares 4398046511104 bytes"),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS)
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_weights_that_reach_outside_are_refused(
    conv: Case, tmp_path: Path, suffix: str, fault: Callable[[Any], None], message: str
) -> None:
    path = tmp_path / f"m{suffix}"
    if suffix == ".h5":
        keras.saving.load_model(conv.path).save(path)
        with h5py.File(path, "a") as file:
            fault(file)
    else:

        def change(members: dict[str, bytes]) -> None:
            weights = tmp_path / "weights.h5"
            weights.write_bytes(members["model.weights.h5"])
            with h5py.File(weights, "a") as file:
                fault(file)
            members["model.weights.h5"] = weights.read_bytes()

        repacked(conv.path, path, change)
    refused("keras", path, f"/layers/stolen {message}", "unsafe-model")


def test_a_type_with_a_name_among_the_weights_is_fine(conv: Case, tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    keras.saving.load_model(conv.path).save(path)
    with h5py.File(path, "a") as file:
        file["layers/kind"] = np.dtype("f4")
    accepted("keras", path)


def test_weights_alone_are_no_model(conv: Case, tmp_path: Path) -> None:
    keras.saving.load_model(conv.path).save_weights(tmp_path / "m.weights.h5")
    refused("keras", tmp_path / "m.weights.h5", "holds weights without a model")


X = tf.TensorSpec((None, 2), name="x")


def saved(folder: Path, function: Callable[[Any], Any]) -> Path:
    module = tf.Module()
    module.factor = tf.Variable(2.0)
    traced = tf.function(lambda x: {"y": function(x * module.factor)}, input_signature=[X])
    tf.saved_model.save(module, str(folder), signatures={"serving_default": traced})
    return folder


def reads(x: Any) -> Any:
    return x + tf.cast(tf.strings.length(tf.io.read_file("/etc/passwd")), tf.float32)


def writes(x: Any) -> Any:
    with tf.control_dependencies([tf.io.write_file("/tmp/evil", "evil")]):
        return tf.identity(x)


def lists(x: Any) -> Any:
    return x + tf.cast(tf.size(tf.io.matching_files("/etc/*")), tf.float32)


def python(x: Any) -> Any:
    return tf.ensure_shape(tf.numpy_function(np.abs, [x], tf.float32), (None, 2))


def prints(x: Any) -> Any:
    with tf.control_dependencies([tf.print(x, output_stream="file:///tmp/evil")]):
        return tf.identity(x)


def saves(x: Any) -> Any:
    with tf.control_dependencies(
        [tf.raw_ops.SaveV2(prefix="/tmp/evil", tensor_names=["x"], shape_and_slices=[""], tensors=[x])]
    ):
        return tf.identity(x)


def restores(x: Any) -> Any:
    [value] = tf.raw_ops.RestoreV2(prefix="/tmp/theirs", tensor_names=["x"], shape_and_slices=[""], dtypes=[tf.float32])
    return x + tf.reduce_sum(value)


def text_lines(x: Any) -> Any:
    return x + tf.cast(tf.data.TextLineDataset("/etc/passwd").reduce(0, lambda n, _: n + 1), tf.float32)


def hidden_in_a_branch(x: Any) -> Any:
    return tf.cond(tf.reduce_sum(x) > 1e9, lambda: reads(x), lambda: x)


def hidden_in_a_loop(x: Any) -> Any:
    return tf.while_loop(lambda x: tf.reduce_sum(x) > 1e9, lambda x: [writes(x)], [x])[0]


def maps_memory(x: Any) -> Any:
    return x + tf.raw_ops.ImmutableConst(dtype=tf.float32, shape=(), memory_region_name="/etc/passwd")


def samples_from_a_file(x: Any) -> Any:
    sampled = tf.random.fixed_unigram_candidate_sampler(
        tf.zeros((1, 1), tf.int64), 1, 1, True, 1, vocab_file="/etc/passwd"
    )
    return x + tf.cast(tf.reduce_sum(sampled.sampled_candidates), tf.float32)


def decodes_by_a_file(x: Any) -> Any:
    decoded = tf.raw_ops.DecodeProtoV2(
        bytes=[""], message_type="M", field_names=["a"], output_types=[tf.float32], descriptor_source="/etc/passwd"
    )
    return x + tf.reduce_sum(decoded.values[0])


def writes_records(x: Any) -> Any:
    words = tf.data.Dataset.from_tensors("a")
    written = tf.raw_ops.ExperimentalDatasetToTFRecord(
        input_dataset=words._variant_tensor, filename="/tmp/evil", compression_type=""
    )
    with tf.control_dependencies([written]):
        return tf.identity(x)


OPERATORS = {
    "FixedUnigramCandidateSampler": samples_from_a_file,
    "DecodeProtoV2": decodes_by_a_file,
    "ExperimentalDatasetToTFRecord": writes_records,
    "ReadFile": reads,
    "WriteFile": writes,
    "MatchingFiles": lists,
    "PyFunc|EagerPyFunc|PyFuncStateless": python,
    "PrintV2": prints,
    "SaveV2": saves,
    "RestoreV2": restores,
    "TextLineDataset": text_lines,
    "ReadFile ": hidden_in_a_branch,
    "WriteFile ": hidden_in_a_loop,
    "ImmutableConst": maps_memory,
}


@pytest.mark.parametrize("operator", OPERATORS)
def test_operators_that_reach_outside_are_named(tmp_path: Path, operator: str) -> None:
    folder = saved(tmp_path / "m", OPERATORS[operator])
    refused("saved_model", folder, rf"holds the operator ({operator.strip()}) .*--allow-code", "unsafe-model")
    accepted("saved_model", folder, allow_code=True)


def test_every_operator_that_tensorflow_registers_is_judged() -> None:
    """A new version's operators are read up on and added to engine/operators.txt by hand: + what only computes."""
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session

    registry = op_def_pb2.OpList.FromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    known = judged_operators()
    assert [operator.name for operator in registry.op if operator.name not in known] == []
    names = [line[2:] for line in OPERATORS_FILE.read_text().splitlines() if line[0] in "+-"]
    assert names == sorted(set(names))


def test_an_operator_that_is_not_known_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", lambda x: tf.math.softsign(x))
    graph = folder / "saved_model.pb"
    graph.write_bytes(graph.read_bytes().replace(b"Softsign", b"Hardsign"))
    refused("saved_model", folder, r"holds the operator Hardsign .*not known here.*--allow-code", "unsafe-model")


def test_printing_to_standard_error_and_datasets_in_memory_are_fine(tmp_path: Path) -> None:
    def harmless(x: Any) -> Any:
        with tf.control_dependencies([tf.print(tf.shape(x))]):
            return x + tf.data.Dataset.range(3).map(lambda i: tf.cast(i, tf.float32)).reduce(0.0, lambda a, b: a + b)

    accepted("saved_model", saved(tmp_path / "m", harmless))


def test_an_operator_in_a_function_that_only_loading_calls(tmp_path: Path) -> None:
    class Table(tf.Module):
        """A lookup table whose initializer reads a file as soon as the model is loaded."""

        def __init__(self) -> None:
            (tmp_path / "words.txt").write_text("a\nb\n")
            index = tf.lookup.TextFileIndex
            initializer = tf.lookup.TextFileInitializer(
                str(tmp_path / "words.txt"), tf.string, index.WHOLE_LINE, tf.int64, index.LINE_NUMBER
            )
            self.table = tf.lookup.StaticHashTable(initializer, 0)

        @tf.function(input_signature=[X])
        def __call__(self, x: Any) -> Any:
            return {"y": x + tf.cast(self.table.lookup(tf.constant("a")), tf.float32)}

    module = Table()
    tf.saved_model.save(module, str(tmp_path / "m"), signatures=module.__call__)
    refused("saved_model", tmp_path / "m", "InitializeTableFromTextFileV2", "unsafe-model")


@pytest.mark.parametrize("directly", [False, True])
def test_a_saver_that_a_signature_calls_is_refused(tmp_path: Path, directly: bool) -> None:
    """The saver's own functions may write files; nothing else may call them."""

    def call_it(meta: Any) -> None:
        save = next(f.signature.name for f in meta.graph_def.library.function if "traced_save" in f.signature.name)
        node = next(n for n in meta.graph_def.node if n.name == "StatefulPartitionedCall")
        if directly:
            node.op = save  # the older way to call a function
        else:
            node.attr["f"].func.name = save

    folder = changed(saved(tmp_path / "m", lambda x: x), call_it)
    refused("saved_model", folder, "SaveV2|MergeV2Checkpoints|ShardedFilename", "unsafe-model")


def changed(folder: Path, change: Callable[[Any], None]) -> Path:
    """The SavedModel with its first graph edited."""
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    change(model.meta_graphs[0])
    (folder / "saved_model.pb").write_bytes(model.SerializeToString())
    return folder


def test_a_saver_in_place_of_the_one_that_restores_is_refused(tmp_path: Path) -> None:
    def swap(meta: Any) -> None:
        meta.saver_def.restore_op_name = meta.saver_def.save_tensor_name.split(":")[0]

    refused("saved_model", changed(saved(tmp_path / "m", lambda x: x), swap), "SaveV2|Merge|Sharded", "unsafe-model")


def test_only_the_signature_that_is_asked_for_is_run(tmp_path: Path) -> None:
    module = tf.Module()
    module.factor = tf.Variable(2.0)
    functions = {"serving_default": lambda x: {"y": x * module.factor}, "store": lambda x: {"y": saves(x)}}
    signatures = {name: tf.function(function, input_signature=[X]) for name, function in functions.items()}
    tf.saved_model.save(module, str(tmp_path / "m"), signatures=signatures)
    accepted("saved_model", tmp_path / "m")
    with pytest.raises(ModelFileError, match="SaveV2"):
        check_model_file(ReferenceSpec("saved_model", FileSpec(str(tmp_path / "m")), signature="store"))


def graph_of_tensorflow_1(folder: Path, extra: Callable[[Any], Any]) -> Path:
    """A SavedModel as TensorFlow 1 writes it, with something more in its graph."""
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.float32, (None, 2), name="x")
        weights = v1.get_variable("w", initializer=np.ones((2, 2), "float32"), use_resource=True)
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": x @ weights})
        init = extra(weights)
        session.run(v1.variables_initializer([weights]))
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], {"serving_default": signature}, main_op=init)
        builder.save()
    return folder


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_second_saver_that_nothing_runs_is_fine(tmp_path: Path) -> None:
    folder = graph_of_tensorflow_1(tmp_path / "m", lambda weights: tf.compat.v1.train.Saver([weights]) and None)
    accepted("saved_model", folder)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("how", ["main_op", "table_initializer", "local_variables"])
def test_what_initialization_runs_is_looked_at(tmp_path: Path, how: str) -> None:
    def extra(_weights: Any) -> Any:
        content = tf.io.read_file("/etc/passwd")
        if how == "main_op":
            return content.op
        if how == "table_initializer":
            tf.compat.v1.add_to_collection("table_initializer", content.op)
        else:
            tf.compat.v1.get_variable("text", initializer=content, collections=["local_variables"], use_resource=True)
        return None

    refused("saved_model", graph_of_tensorflow_1(tmp_path / "m", extra), "ReadFile", "unsafe-model")


@pytest.mark.parametrize("content", [b"", b"\xff" * 50, b"hello"])
def test_a_damaged_graph(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "saved_model.pb").write_bytes(content)
    refused("saved_model", tmp_path, r"saved_model\.pb (is truncated or damaged|holds no graph)")


def test_variables_without_their_index(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", lambda x: x)
    (folder / "variables" / "variables.index").unlink()
    refused("saved_model", folder, r"no variables/variables\.index")


def test_links_that_leave_the_folder(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", lambda x: x)
    shutil.copy(folder / "saved_model.pb", tmp_path / "elsewhere.pb")
    os.symlink(
        tmp_path / "elsewhere.pb", folder / "assets" / "link" if (folder / "assets").is_dir() else folder / "link"
    )
    refused("saved_model", folder, "links out of the folder", "unsafe-model")
