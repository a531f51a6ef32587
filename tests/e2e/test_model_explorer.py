"""Node data, in Model Explorer itself: its own graph of the .tflite that was judged, and its own types."""

from __future__ import annotations

import json
import shutil
import subprocess
import venv
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import EXAMPLES, Run

REQUIREMENT = "ai-edge-model-explorer==0.1.34"
"""In an environment of its own: it takes half a gigabyte, and nothing of it is needed here but this."""
READ = """
import json, sys
from dacite import Config, from_dict
from model_explorer.builtin_tflite_flatbuffer_adapter import BuiltinTfliteFlatbufferAdapter
from model_explorer.node_data_builder import GraphNodeData

model, *paths = sys.argv[1:]
read = {path: from_dict(GraphNodeData, json.load(open(path)), Config(strict=True)) for path in paths}
for path, data in read.items():
    assert json.loads(data.to_json_string())["results"] == json.load(open(path))["results"]
made = BuiltinTfliteFlatbufferAdapter().convert(model, {})
(collection,) = json.loads(json.dumps(made, default=vars))["graphCollections"]
graph = collection["graphs"][0]
names = {}
for node in graph["nodes"]:
    for output in node.get("outputsMetadata") or ():
        for attribute in output["attrs"]:
            if attribute["key"] == "tensor_name":
                names[attribute["value"]] = node["id"]
labels = {node["id"]: node["label"] for node in graph["nodes"]}
found = {path: {key: names.get(key, key) for key in data.results} for path, data in read.items()}
print(json.dumps({path: {key: labels.get(node) for key, node in keys.items()} for path, keys in found.items()}))
"""
"""As its page does, a key is an output's tensor name if there is one, else a node's id; gives the nodes' labels."""


@pytest.fixture(scope="module")
def explorer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with Model Explorer."""
    folder = tmp_path_factory.mktemp("explorer")
    venv.create(folder, with_pip=True)
    subprocess.run([folder / "bin/pip", "install", "-q", "--no-compile", REQUIREMENT], check=True, capture_output=True)
    return folder / "bin/python"


@pytest.mark.parametrize(("io", "first"), [("int8", "GraphInputs"), ("float32", "quantize")])
def test_every_key_is_the_node_of_the_operator(run: Run, explorer: Path, tmp_path: Path, io: str, first: str) -> None:
    """Also where the file's inputs and outputs are float, and its integers lie beyond conversions."""
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    (tmp_path / ".git").mkdir()
    manifest = tmp_path / "examples/digits-broken/tflite-guard.json"
    content = json.loads(manifest.read_text())
    content["models"][0]["variants"] = [{"name": "int8", "quantization": "int8", "io": io}]
    manifest.write_text(json.dumps(content))
    assert run("check", manifest, "--report-dir", "report").code == 1
    assert run("convert", "digits", "int8", "-o", "model.tflite", "--manifest", manifest).code == 0
    paths = sorted((tmp_path / "report/model-explorer").iterdir())
    assert [path.name for path in paths] == [
        f"digits-int8-{measure}.json" for measure in ("clipped", "cumulative", "isolated")
    ]
    command = [explorer, "-c", READ, tmp_path / "model.tflite", *paths]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    matched: dict[str, dict[str, Any]] = json.loads(done.stdout)
    report = json.loads((tmp_path / "report/report.json").read_text())
    tensors = report["models"][0]["variants"][0]["diagnosis"]["tensors"]
    operators = {one["in_file"]: one["operator"] for one in tensors}
    assert len(operators) == 9, "none is without a place"
    expected = {name: first if kind == "input" else kind.lower() for name, kind in operators.items()}
    for path in paths:
        keys = matched[str(path)]
        assert keys == {key: expected[key] for key in keys}, path.name
    assert len(matched[str(paths[0])]) == len(matched[str(paths[2])]) == 9
