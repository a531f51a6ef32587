"""What the end-to-end tests share: a Docker Engine."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e import containers


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n`, tests that share nothing at the same time: all of containers together, and else those of a file."""
    from xdist.scheduler import LoadScopeScheduling

    class ByWhatIsShared(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "containers" if "container" in nodeid else nodeid.partition("::")[0]

    return ByWhatIsShared(config, log)


@pytest.fixture(scope="session")
def docker() -> Iterator[containers.Engine]:
    """Docker Engine: the one that runs, else one of these tests' own."""
    with containers.engine() as running:
        yield running
