"""Docker Engine, a base image, and this repository's image, also where no registry is reachable."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
IMAGE = "tflite-guard:test"
PLAIN_IMAGE = "tflite-guard:plain"
_BASE_IMAGE = "tflite-guard-base:bookworm"
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout")
_PACKAGES_IMAGE = "tflite-guard:packages"
# What a user would do without this project: the same packages by pip, and nothing else. They are compiled as pip does,
# which minds no file that cannot be.
_PLAIN = f"""
ARG BASE_IMAGE
FROM ${{BASE_IMAGE}}
COPY --from={_PACKAGES_IMAGE} /opt/tflite-guard /opt/tflite-guard
RUN /opt/tflite-guard/bin/python -m compileall -q -j 0 /opt/tflite-guard/lib || true
COPY pyproject.toml README.md LICENSE /source/
COPY schemas /source/schemas
COPY tflite_guard /source/tflite_guard
RUN python3 -m pip --python /opt/tflite-guard/bin/python install --no-cache-dir --no-deps /source
ENTRYPOINT ["/opt/tflite-guard/bin/tflite-guard"]
"""


@dataclass(frozen=True)
class Engine:
    """A Docker Engine that answers."""

    socket: str
    folder: Path
    """For what the session's processes do one at a time."""

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs that is to use this engine."""
        return os.environ | {"DOCKER_HOST": f"unix://{self.socket}"}

    def call(self, *arguments: str | Path, text: str | None = None, check: bool = True) -> str:
        """Run a docker command and give what it prints, on both streams."""
        finished = subprocess.run(
            ["docker", *map(str, arguments)],
            env=self.environment,
            input=text,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if check and finished.returncode != 0:
            raise RuntimeError(f"docker {arguments[0]} failed:\n{finished.stdout[-4000:]}")
        return finished.stdout

    def answers(self) -> bool:
        """Whether the engine can be used by now."""
        if shutil.which("docker") is None:
            return False
        command = ["docker", "ps", "--quiet"]
        return subprocess.run(command, env=self.environment, capture_output=True, check=False).returncode == 0

    def has(self, image: str) -> bool:
        """Whether there is an image of this name."""
        return bool(self.call("images", "-q", image).strip())

    def size(self, image: str) -> int:
        """Bytes of an image with all its layers."""
        return int(self.call("image", "inspect", "--format", "{{.Size}}", image))

    def build(self) -> str:
        """The image of this checkout."""
        with _alone(self.folder):
            return self._build(IMAGE, "Dockerfile")

    def build_plain(self) -> str:
        """An image with the same packages, as pip alone installs them."""
        with _alone(self.folder):
            self._build(_PACKAGES_IMAGE, "Dockerfile", "--target", "packages")
            return self._build(PLAIN_IMAGE, "-", text=_PLAIN)

    def base(self) -> str:
        """The Dockerfile's own base image, or where that cannot be had, one made of Debian's packages."""
        with _alone(self.folder):
            return self._base()

    def _build(self, tag: str, dockerfile: str, *options: str, text: str | None = None) -> str:
        base = ("--build-arg", f"BASE_IMAGE={self._base()}")
        self.call("build", "--network", "host", *base, *options, "--tag", tag, "--file", dockerfile, ROOT, text=text)
        return tag

    def _base(self) -> str:
        official: str
        (official,) = re.findall(r"^ARG BASE_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
        if self.has(_BASE_IMAGE):
            return _BASE_IMAGE
        with contextlib.suppress(RuntimeError):
            self.call("pull", "--quiet", official)
            return official
        with tempfile.TemporaryDirectory() as folder:
            _debian(Path(folder))
            pack = ["tar", "--directory", folder, "--create", "."]
            with subprocess.Popen(pack, stdout=subprocess.PIPE) as archive:
                load = ["docker", "import", "-", _BASE_IMAGE]
                subprocess.run(load, env=self.environment, stdin=archive.stdout, stdout=subprocess.DEVNULL, check=True)
            if archive.returncode != 0:
                raise RuntimeError("tar cannot pack the base image")
        return _BASE_IMAGE


def engine(folder: Path) -> Engine:
    """The Docker Engine that runs, or else one in this folder, the same for all who ask; `stop` ends it."""
    own = Engine(f"{folder}/docker.sock", folder)
    running = Engine(os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock").removeprefix("unix://"), folder)
    with _alone(folder):
        if not running.answers():
            _require("docker.io", "dockerd", "docker")
        if running.answers():
            return running
        if not own.answers():
            _start(own)
    return own


def stop(folder: Path) -> None:
    """End the engine in this folder, if there is one, and leave nothing behind."""
    # The daemon ends its containers and its containerd, unless it has to be killed, and last removes this file.
    running = folder / "docker.pid"
    if running.exists():
        pid = int(running.read_text())
        os.kill(pid, signal.SIGTERM)
        if not _comes(lambda: not running.exists()):
            os.killpg(pid, signal.SIGKILL)
    _remove(folder)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other process of the session is here at the same time."""
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _start(own: Engine) -> None:
    """Start a daemon that outlives this process, as others of the session may need it longer."""
    folder = own.folder
    # Without a bridge there is nothing of the machine's network to change and to put back.
    subprocess.run(
        [
            *("setsid", "--fork", "dockerd", "--host", f"unix://{own.socket}", "--pidfile", f"{folder}/docker.pid"),
            *("--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec"),
            *("--bridge", "none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    if not _comes(own.answers):
        raise RuntimeError("dockerd does not start; these tests need Docker Engine, or Debian and root to run one")


def _comes(true: Callable[[], bool]) -> bool:
    """Whether something is true within a minute."""
    deadline = time.monotonic() + 60
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def _remove(folder: Path) -> None:
    mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for place in sorted((place for place in mounted if place.startswith(f"{folder}/")), reverse=True):
        subprocess.run(["umount", "--lazy", place], check=True)
    shutil.rmtree(folder)


def _debian(folder: Path) -> None:
    """A Debian system that installs packages from where this machine does."""
    _require("debootstrap", "debootstrap")
    packages = "python3,python3-venv,python3-pip,ca-certificates"
    command = ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for path in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(folder / path)
    if Path(_CERTIFICATES).exists():
        shutil.copyfile(_CERTIFICATES, folder / _CERTIFICATES.lstrip("/"))
    (folder / "etc/pip.conf").write_text(_pip_settings())


def _pip_settings() -> str:
    """This machine's settings of pip that hold in a container too: a private index, not a folder or a cache."""
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    lines = ["[global]", f"cert = {_CERTIFICATES}"]
    for name, value in re.findall(r"^[\w:]+\.([\w-]+)='(.*)'$", listed.stdout, re.MULTILINE):
        if name in _PIP_SETTINGS and "file://" not in value:
            lines.append(f"{name} = {value}")
    return "\n".join(lines) + "\n"


def _require(package: str, *programs: str) -> None:
    """Install a Debian package unless its programs are there."""
    if all(map(shutil.which, programs)):
        return
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", package]):
        subprocess.run(["apt-get", *command], check=True, stdout=subprocess.DEVNULL, env=quiet)
