"""A profile to break."""

import pytest


@pytest.fixture
def profile(copied):
    """A copy of the smoke profile."""
    return copied("smoke", "broken-for-test")
