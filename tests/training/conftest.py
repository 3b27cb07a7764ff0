"""The toy students of this room's tests, each made once."""

import pytest

from tests.toys import toy


@pytest.fixture(scope="session")
def toys(tmp_path_factory):
    families = ("llama", "mistral", "gpt2", "mamba")
    return {family: toy(tmp_path_factory.mktemp(family), family) for family in families}
