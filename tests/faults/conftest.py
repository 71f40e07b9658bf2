"""What the fault tests share: whether all of it is wanted."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def full(pytestconfig: pytest.Config) -> bool:
    """Whether the whole suite is wanted (`--full-faults`), not its quick part."""
    return bool(pytestconfig.getoption("--full-faults", default=False))


@pytest.fixture
def only_in_full(full: bool) -> None:
    """Skip a test in the quick part."""
    if not full:
        pytest.skip("belongs to the full suite: make faults")
