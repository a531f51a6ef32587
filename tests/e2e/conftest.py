"""What the end-to-end tests share: a Docker Engine."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import workers
from tests.e2e import containers

ENGINE = "TFLITE_GUARD_TESTS_ENGINE"
"""Names the folder of the engine that all processes of a session share."""


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        os.environ[ENGINE] = tempfile.mkdtemp(prefix="docker-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        containers.stop(Path(os.environ.pop(ENGINE)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _unit(item.nodeid)[0])


def _unit(nodeid: str) -> tuple[int, str]:
    """When a test has its turn, and what of: tests of one unit are done by one process, in one go.

    First what takes longest, building the image and an environment with TensorFlow, each with some short tests: a
    process is given its next unit when two tests are left, and nothing long is to wait behind these. Then file by file,
    as tests of a file share what is slow to make. Last what is shown in the image, which by then is there for all.
    """
    if re.search("::test_(the_image|what_is_left|the_lock|one_writable)", nodeid):
        return 0, "image"
    if "tensorflow_it_brings" in nodeid or "test_workflows" in nodeid:
        return 1, "tensorflow"
    if "container" in nodeid:
        return 3, nodeid
    return 2, nodeid.partition("::")[0]


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Two processes more than there are cores: what installs packages mostly waits for the network."""
    return workers(spare=2)


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from xdist.scheduler import LoadScopeScheduling

    class ByUnit(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _unit(nodeid)[1]

    config.option.loadscopereorder = False
    return ByUnit(config, log)


@pytest.fixture(scope="session")
def docker() -> containers.Engine:
    """Docker Engine: the one that runs, else one of these tests' own."""
    return containers.engine(Path(os.environ[ENGINE]))
