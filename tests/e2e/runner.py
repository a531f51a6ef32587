"""What GitHub's runner does with a Docker action: its inputs, its container, and what it reads of what comes out.

Follows the runner's own source (FileCommandManager, ContainerActionHandler).
"""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.e2e.containers import Engine
from tests.workflow_commands import LEVELS, Command, commands, outputs
from tests.workflows import DECLARED

ANNOTATIONS_OF_A_LEVEL = 10
MESSAGE_LENGTH = 4096
SUMMARY_BYTES = 1024 * 1024
TOKEN = "ghs_job0token0that0may0comment"
RUNTIME_TOKEN = "runtime0token0for0caches"
IDENTITY_TOKEN = "identity0token0for0clouds"
SECRETS = (TOKEN, RUNTIME_TOKEN, IDENTITY_TOKEN)


@dataclass(frozen=True)
class Step:
    """What is left of a step that has run."""

    exit_code: int
    log: str
    commands: list[Command]
    outputs: dict[str, str]
    summary: str
    """Empty where it is over the limit: the runner drops it whole."""
    files: dict[str, str]
    """What was written to GITHUB_ENV, GITHUB_PATH and GITHUB_STATE, by the variable's name."""

    @property
    def annotations(self) -> list[Command]:
        """Those that the runner keeps: ten of each level, with messages of 4,096 characters."""
        counts: Counter[str] = Counter()
        kept = []
        for command in (command for command in self.commands if command.name in LEVELS):
            counts[command.name] += 1
            if counts[command.name] <= ANNOTATIONS_OF_A_LEVEL:
                kept.append(Command(command.name, command.properties, command.message[:MESSAGE_LENGTH]))
        return kept

    @property
    def everything(self) -> str:
        """All that others can read of it."""
        return "\n".join([self.log, self.summary, *self.outputs.values(), *self.files.values()])


@dataclass
class Runner:
    """A job on GitHub that has checked out a workspace."""

    engine: Engine
    image: str
    workspace: Path
    temporary: Path
    """The runner's own folder, outside the workspace."""
    event_name: str = "pull_request"
    event: dict[str, Any] = field(default_factory=dict)
    api_url: str = "http://127.0.0.1:9"
    options: tuple[str, ...] = ()
    """Further options of `docker run`."""

    def run(self, inputs: Mapping[str, str] | None = None, **environ: str) -> Step:
        """Run the action of this repository as one step, with inputs as under `with:` and variables as under `env:`."""
        action = DECLARED
        folders = self._folders()
        files = {name: f"{name.lower()}_0123" for name in ("OUTPUT", "STEP_SUMMARY", "ENV", "PATH", "STATE")}
        for name in files.values():
            (folders["file_commands"] / name).write_text("")
        (folders["workflow"] / "event.json").write_text(json.dumps(self.event))
        variables = {
            **environ,
            **_inputs(action, inputs or {}),
            **self._variables(),
            **{f"GITHUB_{name}": f"/github/file_commands/{file}" for name, file in files.items()},
        }
        code, log = self._start(folders, variables, action["runs"].get("args", []))
        read = {name: (folders["file_commands"] / file).read_text() for name, file in files.items()}
        summary = read["STEP_SUMMARY"] if len(read["STEP_SUMMARY"].encode()) <= SUMMARY_BYTES else ""
        left = {f"GITHUB_{name}": read[name] for name in ("ENV", "PATH", "STATE")}
        return Step(code, log, list(commands(log)), outputs(read["OUTPUT"]), summary, left)

    def _folders(self) -> dict[str, Path]:
        """The runner's folders that the container sees under /github."""
        folders = {name: self.temporary / name for name in ("home", "workflow", "file_commands", "runner_temp")}
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        return folders | {"workspace": self.workspace}

    def _variables(self) -> dict[str, str]:
        number = self.event.get("pull_request", {}).get("number")
        return {
            "CI": "true",
            "HOME": "/github/home",
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTION": "tflite-guard",
            "GITHUB_ACTOR": "octocat",
            "GITHUB_API_URL": self.api_url,
            "GITHUB_EVENT_NAME": self.event_name,
            "GITHUB_EVENT_PATH": "/github/workflow/event.json",
            "GITHUB_JOB": "models",
            "GITHUB_REF": f"refs/pull/{number}/merge" if number else "refs/heads/main",
            "GITHUB_REPOSITORY": "octo/app",
            "GITHUB_RUN_ATTEMPT": "1",
            "GITHUB_RUN_ID": "100",
            "GITHUB_SERVER_URL": "https://github.com",
            "GITHUB_SHA": "b" * 40,
            "GITHUB_WORKFLOW": "models",
            "GITHUB_WORKSPACE": "/github/workspace",
            "RUNNER_ARCH": "X64",
            "RUNNER_OS": "Linux",
            "RUNNER_TEMP": "/github/runner_temp",
            "ACTIONS_CACHE_URL": "https://cache.example/",
            "ACTIONS_RUNTIME_URL": "https://runtime.example/",
            "ACTIONS_RUNTIME_TOKEN": RUNTIME_TOKEN,
            "ACTIONS_ID_TOKEN_REQUEST_URL": "https://identity.example/",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": IDENTITY_TOKEN,
        }

    def _start(self, folders: dict[str, Path], variables: dict[str, str], args: list[str]) -> tuple[int, str]:
        """Run the container; its exit code and both of its streams as one log."""
        mounts = {self.engine.socket: "/var/run/docker.sock"}
        mounts |= {str(folder): f"/github/{name}" for name, folder in folders.items()}
        finished = subprocess.run(
            [
                *("docker", "run", "--rm", "--network", "host", "--workdir", "/github/workspace"),
                *(part for name in variables for part in ("--env", name)),
                *(part for source, target in mounts.items() for part in ("--volume", f"{source}:{target}")),
                *(*self.options, self.image, *args),
            ],
            env=self.engine.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        return finished.returncode, finished.stdout.decode("utf-8", "replace")


def _inputs(action: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """The INPUT_ variables: spaces become underscores, dashes stay."""
    if unknown := set(given) - set(action["inputs"]):
        raise ValueError(f"unexpected inputs {unknown}")
    values = {name: given.get(name, str(spec.get("default", ""))) for name, spec in action["inputs"].items()}
    return {f"INPUT_{name.replace(' ', '_').upper()}": _evaluated(value) for name, value in values.items()}


def _evaluated(value: str) -> str:
    contexts = {"github.token": TOKEN, "github.workspace": "/github/workspace"}
    return re.sub(r"\$\{\{ *([\w.]+) *\}\}", lambda match: contexts[match[1]], value)
