"""What the tests of the testbed share."""

import pytest

from testbed.testbed import Testbed


@pytest.fixture(scope="session")
def testbed() -> Testbed:
    """The running testbed."""
    return Testbed.from_environment()
