"""Stories: what users were promised, on the real parts. `tests/testbed/run with -- python -m pytest tests/testbed/stories`"""

import pytest

from testbed import homelab
from testbed.testbed import Testbed


@pytest.fixture(scope="session")
def testbed() -> Testbed:
    return Testbed.from_environment()


@pytest.fixture
def tell(capsys):
    """Says something that is shown whether or not the test passes: every story shows its counts."""

    def say(line: str) -> None:
        with capsys.disabled():
            print(f"\n    {line}", end="", flush=True)

    return say


@pytest.fixture(scope="session")
def another_cluster(testbed):
    """A cluster that is no EKS cluster; only stories that ask for it pay for it."""
    with homelab.started(testbed) as cluster:
        yield cluster
