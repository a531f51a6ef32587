"""The image, and the Action in it, as GitHub's runner and pre-commit run it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from tests.conftest import EXAMPLES, ROOT, lighten, manifest_of, only, write_manifest
from tests.e2e.containers import Engine
from tests.e2e.runner import SECRETS, TOKEN, Runner, Step
from tests.github_api import Fault, GitHub, Pull, Token, secondary_limit

RUNNER_USER = os.getuid() or 1001
"""On GitHub the tests run as the runner's own user, elsewhere as root."""
SHA = "a" * 40
PULL_REQUEST = {"pull_request": {"number": 7, "head": {"sha": SHA, "repo": {"full_name": "octo/app"}}}}
DIGITS = "examples/digits/tflite-guard.json"
BROKEN = "examples/digits-broken/tflite-guard.json"

Measured = dict[str, Any]
NewRunner = Callable[..., Runner]


@pytest.fixture(scope="module")
def image(docker: Engine) -> str:
    return docker.build()


Give = Callable[[int], None]


@pytest.fixture
def give(docker: Engine, image: str, tmp_path: Path) -> Give:
    """Makes the workspace and all in it a user's, which without a container only root can."""

    def make(user: int) -> None:
        folder = ("--volume", f"{tmp_path}/workspace:/workspace", "--entrypoint", "chown")
        docker.call("run", "--rm", "--network", "none", *folder, image, "-R", "-h", f"{user}:{user}", "/workspace")

    return make


@pytest.fixture
def workspace(tmp_path: Path, give: Give) -> Iterator[Path]:
    """A checkout with the examples, which belongs to the runner's user as on GitHub."""
    folder = tmp_path / "workspace"
    shutil.copytree(EXAMPLES, folder / "examples")
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    subprocess.run(["git", "-C", folder, "add", "examples"], check=True)
    give(RUNNER_USER)
    yield folder
    give(os.getuid())


@pytest.fixture
def light(workspace: Path, float_tflite: Path) -> Path:
    """The same where the example needs no TensorFlow, whose start takes seconds: for what each child does alike."""
    lighten(workspace / "examples/digits", float_tflite)
    return workspace


@pytest.fixture
def github() -> Iterator[GitHub]:
    api = GitHub()
    api.tokens[TOKEN] = Token("github-actions[bot]")
    api.pulls[7] = Pull(7, SHA)
    with api.serve():
        yield api


@pytest.fixture
def runner(docker: Engine, image: str, workspace: Path, tmp_path: Path, github: GitHub) -> NewRunner:
    """A runner that works on the pull request."""

    def make(**settings: Any) -> Runner:
        temporary = tmp_path / "temporary"
        return Runner(docker, image, workspace, temporary, **{"event": PULL_REQUEST, "api_url": github.url} | settings)

    return make


def narrow(workspace: Path, manifest: str, *variants: str) -> None:
    """Leave only these variants in a manifest of the workspace."""
    folder = (workspace / manifest).parent
    write_manifest(folder, only(manifest_of(folder), *variants))


def line_of(file: Path, text: str) -> int:
    """The first line of a file that holds a text."""
    return next(number for number, line in enumerate(file.read_text().splitlines(), 1) if text in line)


def measured(report: Measured) -> Measured:
    """A report without what may differ from one machine or run to the next."""
    kept = {name: value for name, value in report.items() if name not in ("environment", "seconds")}
    for model in kept["models"]:
        for entry in (model, model["reference"], *model["variants"]):
            entry.pop("seconds", None)
    return kept


def reported(workspace: Path, step: Step, variant: str, metric: str) -> Measured:
    """A metric of a variant in the report that a step wrote."""
    report = json.loads((workspace / step.outputs["report-json"]).read_text())
    variants = [one for model in report["models"] for one in model["variants"] if one["name"] == variant]
    (found,) = (one for one in variants[0]["metrics"] if one["name"] == metric)
    return dict(found)


def errors(workspace: Path, step: Step) -> list[str]:
    """Why each model could not be evaluated."""
    report = json.loads((workspace / step.outputs["report-json"]).read_text())
    return [str(model["error"]["message"]) for model in report["models"]]


def owned(folder: Path) -> set[int]:
    """The users that a folder and all in it belong to."""
    return {path.lstat().st_uid for path in (folder, *folder.rglob("*"))}


# The image


def test_the_image_is_smaller_than_what_pip_installs_and_gives_the_same_results(
    docker: Engine, image: str, workspace: Path
) -> None:
    plain = docker.build_plain()
    assert docker.size(image) <= 0.75 * docker.size(plain)
    reports = []
    for tag in (image, plain):
        docker.call(
            *("run", "--rm", "--network", "none", "--volume", f"{workspace}:/work", "--workdir", "/work", tag),
            *("check", "--no-cache", "--format", "json=report.json", DIGITS),
        )
        reports.append(measured(json.loads((workspace / "report.json").read_text())))
    assert reports[0] == reports[1]


def test_what_is_left_after_slimming_works_and_installs_nothing(docker: Engine, image: str) -> None:
    program = """
import importlib.util
import tensorflow, tf_keras, h5py, scipy.stats, ai_edge_litert.interpreter, litert_quantizer, PIL.Image, httpx
from tflite_micro.python.tflite_micro import runtime
print("imported; pip:", importlib.util.find_spec("pip"))
"""
    said = docker.call("run", "--rm", "--network", "none", "--entrypoint", "python", image, "-c", program)
    assert "imported; pip: None" in said


def test_the_lock_holds_what_the_package_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    held = ("tensorflow-cpu", "recipes", "litert", "micro", "detection", "https", "s3", "gs")
    wanted = [*project["project"]["dependencies"], *(one for extra in held for one in extras[extra])]
    tf_keras = [requirement for requirement in extras["tensorflow"] if requirement.startswith("tf-keras")]
    assert set(tf_keras) <= set((ROOT / "container/requirements.in").read_text().splitlines())
    assert_locked(ROOT / "container/requirements.txt", [*wanted, *tf_keras])
    builds = project["build-system"]["requires"]
    assert set(builds) <= set((ROOT / "container/build.in").read_text().splitlines())
    assert_locked(ROOT / "container/build.txt", builds)


def assert_locked(lock: Path, requirements: list[str]) -> None:
    """Every requirement is met, and every package has a hash."""
    entries = re.split(r"\n(?=[a-z0-9])", lock.read_text())[1:]
    assert all(" --hash=sha256:" in entry for entry in entries)
    for_us = {entry.partition("==")[0] for entry in entries if "tflite-guard (" in entry}
    assert for_us <= {Requirement(requirement).name for requirement in requirements}, "once asked for, and no more"
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.]+)", "\n".join(entries), re.MULTILINE))
    for requirement in map(Requirement, requirements):
        assert requirement.specifier.contains(pinned[requirement.name]), requirement


@pytest.mark.parametrize("user", ["0:0", "12345:12345"], ids=["root", "a user without a name or a home"])
@pytest.mark.parametrize("writable", ["/work", "/tmp"])
def test_one_writable_folder_is_enough(
    docker: Engine, image: str, workspace: Path, give: Give, user: str, writable: str
) -> None:
    narrow(workspace, DIGITS, "int8")
    if writable == "/work":
        give(int(user.split(":")[0]))
        mounts = ["--volume", f"{workspace}:/work"]
    else:
        mounts = ["--volume", f"{workspace}:/work:ro", "--tmpfs", "/tmp"]
    before = sorted(workspace.rglob("*"))
    said = docker.call(
        *("run", "--rm", "--read-only", "--network", "none", "--user", user, *mounts, "--workdir", "/work"),
        *(image, "check", DIGITS),
    )
    assert "1 variant: 1 within tolerance" in said
    assert sorted(workspace.rglob("*")) == before, "it leaves nothing behind"


# The Action


def test_a_good_model_is_green_and_silent(runner: NewRunner, workspace: Path, github: GitHub) -> None:
    step = runner().run({"manifest": DIGITS, "cache-dir": ".cache/tflite-guard"})
    assert step.exit_code == 0, step.log
    assert step.annotations == []
    assert step.outputs == {
        "verdict": "pass",
        "failed-count": "0",
        "warned-count": "0",
        "checked-count": "7",
        "report-json": "tflite-guard-report/report.json",
        "report-markdown": "tflite-guard-report/report.md",
        "sarif": "tflite-guard-report/report.sarif",
        "junit": "tflite-guard-report/report.junit.xml",
        "comment-url": "",
    }
    for name in ("report-json", "report-markdown", "sarif", "junit"):
        assert (workspace / step.outputs[name]).is_file()
    assert "within tolerance" in step.summary
    assert github.writes == []
    assert owned(workspace) == {RUNNER_USER}, "a later checkout can remove what the step wrote"
    assert_nothing_leaked(step, workspace)


def test_a_bad_model_is_red_on_its_line_with_outputs_summary_and_comment(
    runner: NewRunner, workspace: Path, github: GitHub
) -> None:
    inputs = {"manifest": BROKEN, "cache-dir": ".cache/tflite-guard"}
    step = runner().run(inputs)
    assert step.exit_code == 1, step.log
    accuracy, agreement, ties, worst = step.annotations
    assert accuracy.name == "error"
    assert accuracy.properties["file"] == BROKEN
    assert int(accuracy.properties["line"]) == line_of(workspace / BROKEN, '"accuracy": {"max_drop"')
    metric = reported(workspace, step, "int8", "accuracy")
    reference, value, drop = (f"{metric[name]:.4f}" for name in ("reference", "value", "drop"))
    interval = "[{:.4f}, {:.4f}]".format(*metric["confidence_interval"])
    assert accuracy.properties["title"] == "digits / int8: accuracy"
    assert accuracy.message.startswith(
        f"digits / int8: accuracy went from {reference} to {value}, worse by {drop}; max_drop allows 0.01. "
        f"95 % interval {interval}. Cause: "
    )
    told = [accuracy.message.find(f" {what}: ") for what in ("Cause", "Proof", "Fix")]
    assert told == sorted(told)
    assert told[0] > 0
    assert int(agreement.properties["line"]) == line_of(workspace / BROKEN, '"agreement": {"min"')
    assert (ties.name, ties.properties["title"]) == ("warning", "digits / int8: coarse-output")
    assert (worst.name, worst.properties["title"]) == ("notice", "digits / int8: class-lost")
    counts = {name: step.outputs[name] for name in ("verdict", "failed-count", "warned-count", "checked-count")}
    assert counts == {"verdict": "fail", "failed-count": "1", "warned-count": "0", "checked-count": "2"}
    (comment,) = github.of(7, "github-actions[bot]")
    assert step.outputs["comment-url"].endswith(f"#issuecomment-{comment.id}")
    for page in (step.summary, comment.body):
        assert "1 model, 2 variants: 1 out of tolerance" in page
        (row,) = re.findall(r"<tr>.*❌\s<code>accuracy</code>.*</tr>", page)
        figures = [reference, value, drop, interval, "max_drop</code> 0.01"]
        row = row.replace("\xa0", " ")  # which keep figures in one line
        assert [figure in row for figure in figures] == [True] * 5, row
    assert_nothing_leaked(step, workspace)

    again = runner().run(inputs)
    assert again.exit_code == 1
    assert len(github.of(7, "github-actions[bot]")) == 1


def test_the_comment_is_found_behind_others_and_written_though_the_server_fails_at_first(
    runner: NewRunner, workspace: Path, github: GitHub
) -> None:
    for number in range(150):
        github.comment(7, f"user{number}", "<!-- tflite-guard id=tflite-guard content=0 run=1.1 -->\nnot ours")
    ours = github.comment(7, "github-actions[bot]", "<!-- tflite-guard id=tflite-guard content=0 run=1.1 -->\nold")
    github.faults += [Fault(502), Fault(503), secondary_limit(1)]
    narrow(workspace, BROKEN, "int8")
    inputs = {"manifest": BROKEN, "cache-dir": ".cache/tflite-guard", "diagnose": "never"}
    step = runner().run(inputs)
    assert (step.exit_code, ours.edits) == (1, 1), step.log
    assert "out of tolerance" in ours.body
    assert len(github.of(7, "github-actions[bot]")) == 1
    assert all("not ours" in comment.body for comment in github.comments if comment is not ours)

    github.faults += [Fault(500)] * 20
    green = runner().run(inputs | {"fail-on": "never"})
    assert (green.exit_code, green.outputs["verdict"], green.outputs["comment-url"]) == (0, "fail", "")


@pytest.mark.parametrize(("manifest", "code"), [(DIGITS, 0), (BROKEN, 1)], ids=["green", "red"])
def test_a_fork_gets_its_verdict_though_its_token_may_not_comment(
    runner: NewRunner, workspace: Path, github: GitHub, manifest: str, code: int
) -> None:
    github.tokens[TOKEN] = Token("github-actions[bot]", writes=False)
    narrow(workspace, manifest, "int8")
    step = runner().run({"manifest": manifest, "comment": "always", "diagnose": "never"})
    assert step.exit_code == code, step.log
    warnings = [command.message for command in step.annotations if command.name == "warning"]
    assert any("tflite-guard-report/" in message for message in warnings), "where the comment is instead"
    assert step.outputs["verdict"] == ("pass" if code == 0 else "fail")
    assert github.of(7, "github-actions[bot]") == []
    assert owned(workspace) == {RUNNER_USER}
    assert_nothing_leaked(step, workspace)


def test_pull_request_target_is_refused_unless_opted_in(runner: NewRunner, workspace: Path, github: GitHub) -> None:
    narrow(workspace, DIGITS, "int8")
    refused = runner(event_name="pull_request_target").run({"manifest": DIGITS})
    assert refused.exit_code == 2
    assert "pull_request_target" in refused.annotations[0].message
    assert refused.outputs["verdict"] == "error"
    assert not (workspace / "tflite-guard-report").exists()
    assert github.log == []
    allowed = runner(event_name="pull_request_target").run(
        {"manifest": DIGITS, "allow-pull-request-target": "true", "comment": "off"}
    )
    assert allowed.exit_code == 0, allowed.log


# What models try

THIEF = """
import glob, os, pathlib, signal, socket
import numpy as np

SECRETS = %(secrets)r


def load():
    got, tried = [], 0
    own = {name: value for name, value in os.environ.items() if name.startswith(("ACTIONS_", "INPUT_", "GITHUB_"))}
    if own:
        got.append(f"variables {sorted(own)}")
    places = [f"/proc/{pid}/{file}" for pid in range(1, 200) for file in ("environ", "mem", "cmdline")]
    places += ["/github/workflow/event.json", "/proc/self/environ"]
    for place in places:
        tried += 1
        try:
            with open(place, "rb") as stream:
                content = stream.read(2**20).decode("latin1")
        except OSError:
            continue
        if any(secret in content for secret in SECRETS):
            got.append("read " + place)
    folder = "/github/file_commands/"
    names = ["output_0123", "env_0123", "path_0123", "state_0123", "step_summary_0123"]
    targets = [folder + name for name in names] + [folder + "planted", "/github/workspace/planted"]
    targets += ["/github/home/planted", "/github/runner_temp/planted", "/opt/tflite-guard/planted"]
    for target in targets:
        tried += 1
        try:
            with open(target, "a") as stream:
                stream.write("stolen=1\\n")
            got.append("wrote " + target)
        except OSError:
            pass
    for address in ("/var/run/docker.sock", "/run/docker.sock"):
        tried += 1
        try:
            with socket.socket(socket.AF_UNIX) as engine:
                engine.connect(address)
            got.append("connected to " + address)
        except OSError:
            pass
    try:
        socket.create_connection(%(api)r, 1).close()
        got.append("connected to the network")
    except OSError:
        pass
    try:
        os.kill(os.getppid(), 0)
        got.append("can signal the parent")
    except OSError:
        pass
    raise RuntimeError(f"tried {tried} places and got {got}")
"""


def thieving(workspace: Path, github: GitHub) -> str:
    """A manifest whose evaluation data comes from code that tries everything."""
    host, _, port = github.url.removeprefix("http://").partition(":")
    folder = workspace / "examples/digits"
    (folder / "thief.py").write_text(THIEF % {"secrets": SECRETS, "api": (host, int(port))})
    manifest = only(manifest_of(folder), "float32")
    source = {"source": "python", "path": "thief:load", "inputs": {"image": "image"}, "labels": "label"}
    manifest["datasets"]["test"] = source
    write_manifest(folder, manifest)
    return DIGITS


WHO = """
import os

def tell(*_):
    raise RuntimeError(f"user {os.getuid()}, groups {os.getgroups()}")
"""
SITE_PACKAGES = "/opt/tflite-guard/lib/python3*/site-packages"


def asking(workspace: Path) -> None:
    """Have a metric computed by code that tells who runs it."""
    folder = workspace / "examples/digits"
    (folder / "who.py").write_text(WHO)
    manifest = manifest_of(folder)
    manifest["models"][0] |= {
        "metrics": [{"name": "who", "python": "who:tell"}],
        "tolerances": {},
        "variants": ["float32"],
    }
    write_manifest(folder, manifest)


def checked(docker: Engine, image: str, workspace: Path, *options: str, before: str = "true", check: str = "") -> str:
    """What a check says as the container's root, after some commands in the same container."""
    said = docker.call(
        *("run", "--rm", "--network", "none", "--volume", f"{workspace}:/work", "--workdir", "/work", *options),
        *("--entrypoint", "sh", image, "-c", f"{before} && exec tflite-guard check {check} {DIGITS}"),
        check=False,
    )
    return " ".join(said.split())


@pytest.mark.parametrize(
    "options",
    [
        ("--cap-drop", "ALL"),
        ("--cap-drop", "SETUID", "--cap-drop", "SETGID"),
        ("--cap-drop", "CHOWN"),
        ("--cap-drop", "KILL"),
        ("--cap-drop", "DAC_OVERRIDE"),
    ],
    ids=" ".join,
)
def test_root_without_all_of_its_powers_is_enough(
    docker: Engine, image: str, light: Path, options: tuple[str, ...]
) -> None:
    said = checked(docker, image, light, *options, check="--no-cache")
    assert "1 variant: 1 within tolerance" in said
    asking(light)
    said = checked(docker, image, light, *options, check="--no-cache --allow-code")
    assert "user 0," in said, "nobody could not be given files, or not be ended"


def test_root_of_a_user_namespace_is_enough(docker: Engine, image: str, workspace: Path) -> None:
    narrow(workspace, DIGITS, "int8")
    said = docker.call(
        *("run", "--rm", "--network", "none", "--volume", f"{workspace}:/work", "--user", "12345:12345"),
        *("--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"),
        *("--entrypoint", "unshare", image, "--map-root-user", "tflite-guard", "check", "--no-cache", DIGITS),
        check=False,
    )
    assert "1 variant: 1 within tolerance" in said


@pytest.mark.parametrize(
    "before",
    [
        "umask 077",
        "chown root:root examples/digits/app/* && chmod 0640 examples/digits/app/*",
        "chown root:root examples/digits/data && chmod 0750 examples/digits/data",
        f"chmod -R go-rwx {SITE_PACKAGES}/numpy",
        "mkdir -m 0700 /tmp/own && export TMPDIR=/tmp/own",
        "mkdir -m 0700 /tmp/own && export XDG_CACHE_HOME=/tmp/own/cache",
    ],
)
def test_root_reads_what_is_closed_to_others(docker: Engine, image: str, light: Path, before: str) -> None:
    cache = "" if "CACHE" in before else "--no-cache"  # root's own cache folder is closed to others, too
    said = checked(docker, image, light, "--group-add", "0", before=before, check=cache)
    assert "1 variant: 1 within tolerance" in said


CACHE = "/tmp/cache/v1"


@pytest.mark.parametrize(
    "before",
    [
        "true",
        f"mkdir -p {CACHE}/00 && mkdir -m 0700 {CACHE}/tmp-left && touch {CACHE}/tmp-left/model.tflite",
        "mkdir /data && touch /data/private && chmod 0600 /data/private",
        "ln -s /etc/shadow examples/digits/shadow && ln -s nowhere examples/digits/dangling",
        "ln -s /root examples/digits/home && ln -s . examples/digits/circle",
    ],
    ids=[
        "nothing special",
        "what a killed run left",
        "a closed file below a data root",
        "links out",
        "links to folders",
    ],
)
def test_a_model_is_nobody_whatever_lies_about(docker: Engine, image: str, light: Path, before: str) -> None:
    asking(light)
    data_root = "--data-root /data" if "/data" in before else ""
    options = f"--allow-code --cache-dir /tmp/cache {data_root}"
    said = checked(docker, image, light, "--group-add", "7", before=before, check=options)
    assert "user 65534, groups []" in said


def test_a_cache_of_a_user_who_closes_files_to_others_is_used(docker: Engine, image: str, workspace: Path) -> None:
    narrow(workspace, DIGITS, "float32")
    fill = f"(umask 077 && tflite-guard check --cache-dir cache {DIGITS})"
    narrowed = f"sed -i s/float32/int8/ {DIGITS} && chmod 0755 cache cache/v1 cache/v1/*"
    said = checked(docker, image, workspace, before=f"{fill} && {narrowed}", check="--cache-dir cache")
    assert said.count("1 variant: 1 within tolerance") == 2


def test_links_to_a_data_root_are_followed(docker: Engine, image: str, light: Path) -> None:
    moved = "mkdir /data && mv examples/digits/data/* /data/ && ln -s /data/* examples/digits/data/"
    for closing in ("true", "chmod 0600 /data/*", "chmod 0700 /data"):
        before = f"cp -a examples /tmp/ && cd /tmp && {moved} && {closing}"
        said = checked(docker, image, light, before=before, check="--no-cache --data-root /data")
        assert "1 variant: 1 within tolerance" in said


@pytest.mark.parametrize("landlock", [True, False], ids=["landlock", "without landlock"])
def test_code_that_is_allowed_finds_no_secret_and_writes_no_file(
    runner: NewRunner, workspace: Path, github: GitHub, tmp_path: Path, landlock: bool
) -> None:
    manifest = thieving(workspace, github)
    options = () if landlock else ("--security-opt", f"seccomp={without_landlock(tmp_path)}")
    step = runner(options=options).run({"manifest": manifest, "allow-code": "true"})
    assert step.exit_code == 3, step.log
    got = re.search(r"tried (\d+) places and got \[(.*?)\]", step.log)
    assert got is not None, step.log
    assert int(got[1]) > 500
    assert got[2] == "", "where Landlock is missing, the network is closed by what system calls are given up"
    assert_nothing_leaked(step, workspace)


# Each graph reads the environment of the container's first process and writes it where others find it. Loaded by a
# program that takes no care, as this one, it does what it is made for.
THIEVING_MODELS = """
import sys
import tensorflow as tf


class Thief(tf.Module):
    def __init__(self, target):
        self.target = target

    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 1], tf.float32, name="image")])
    def __call__(self, image):
        stolen = tf.io.read_file("/proc/1/environ") if "planted" in self.target else "stolen=1"
        with tf.control_dependencies([tf.io.write_file(self.target, stolen)]):
            return {"probabilities": tf.reduce_mean(image, axis=[1, 2]) * tf.ones([1, 10])}


for target in sys.argv[1:]:
    model = "models/" + target.rsplit("/", 1)[1]
    tf.saved_model.save(Thief(target), model)
    tf.saved_model.load(model)(tf.zeros([1, 8, 8, 1]))
"""
TARGETS = ("/github/workspace/planted", "/github/file_commands/env_0123")


def test_a_saved_model_that_is_allowed_to_touch_files_gets_nothing(
    docker: Engine, image: str, runner: NewRunner, workspace: Path, tmp_path: Path
) -> None:
    folder = workspace / "examples/digits"
    mounts = ["--volume", f"{folder}:/work"]
    for place in ("workspace", "file_commands"):
        (tmp_path / "unguarded" / place).mkdir(parents=True)
        mounts += ["--volume", f"{tmp_path}/unguarded/{place}:/github/{place}"]
    inside = ("run", "--rm", "--network", "none", "--entrypoint", "python", "--workdir", "/work")
    docker.call(*inside, *mounts, "--env", f"TOKEN={TOKEN}", image, "-c", THIEVING_MODELS, *TARGETS)
    assert TOKEN in (tmp_path / "unguarded/workspace/planted").read_text()
    assert (tmp_path / "unguarded/file_commands/env_0123").read_text() == "stolen=1"

    manifest = only(manifest_of(folder), "float32")
    (model,) = manifest["models"]
    names = [Path(target).name for target in TARGETS]
    manifest["models"] = [model | {"name": name, "reference": {"saved_model": f"models/{name}"}} for name in names]
    write_manifest(folder, manifest)
    refused = runner().run({"manifest": DIGITS})
    assert refused.exit_code == 3, refused.log
    for error in errors(workspace, refused):
        assert re.search("holds the operator (ReadFile|WriteFile)", error)
    step = runner().run({"manifest": DIGITS, "allow-code": "true"})
    assert step.exit_code == 3, step.log
    for error in errors(workspace, step):
        assert re.search("cannot be run: .*denied", error)
    assert_nothing_leaked(step, workspace)


def without_landlock(folder: Path) -> Path:
    """A profile under which the kernel's Landlock cannot be used."""
    names = ["landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"]
    rule = {"names": names, "action": "SCMP_ACT_ERRNO"}
    profile = folder / "seccomp.json"
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    return profile


def assert_nothing_leaked(step: Step, workspace: Path) -> None:
    """No secret in anything that others read, and nothing in the files of later steps."""
    files = [path for path in workspace.rglob("*") if path.is_file() and path.name != "thief.py"]
    for secret in SECRETS:
        assert secret not in step.everything
        assert not [path for path in files if secret.encode() in path.read_bytes()]
    assert step.files == {"GITHUB_ENV": "", "GITHUB_PATH": "", "GITHUB_STATE": ""}
    assert "stolen" not in step.outputs
    assert not [path for path in workspace.iterdir() if path.name == "planted"]
    assert [command for command in step.commands if command.name not in ("error", "warning", "notice", "debug")] == []
