"""What the end-to-end tests share: a Docker Engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e import containers


@pytest.fixture(scope="session")
def docker() -> Iterator[containers.Engine]:
    """Docker Engine: the one that runs, else one of these tests' own."""
    with containers.engine() as running:
        yield running
