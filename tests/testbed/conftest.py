"""What all tests of the testbed share. `tests/testbed/run with -- python -m pytest tests/testbed`

Workers of pytest-xdist (`-n 3 --dist loadgroup`) share the testbed and have a stack of their own each.
"""

import pytest

from testbed import another_stack, homelab, sample
from testbed.testbed import Testbed


@pytest.fixture(scope="session")
def testbed(worker_id) -> Testbed:
    """The running testbed, with a stack of its own for each worker."""
    testbed = Testbed.from_environment()
    return testbed if worker_id == "master" else another_stack.created(testbed, f"changeover-{worker_id}")


@pytest.fixture(scope="session")
def another_cluster(testbed):
    """A cluster that is no EKS cluster; only stories that ask for it pay for it."""
    with homelab.started(testbed) as cluster:
        yield cluster


@pytest.fixture
def tell(request):
    """Adds a line to the report, whether or not the test passes: every story shows its counts."""

    def say(line: str) -> None:
        request.node.user_properties.append(("said", line))

    return say


def pytest_configure(config):
    config.addinivalue_line("markers", "verify: exhaustive; runs in `make verify`, and a sample of it in `make test`")
    config.addinivalue_line("markers", "slow: takes longer than others, and begins first")
    config.pluginmanager.register(Said(config))


def pytest_collection_modifyitems(items):
    """Begins with what takes longest, so that no worker is left alone with it; leaves out what is for `make verify`."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items:
        if item.get_closest_marker("verify") and not sample.is_everything():
            item.add_marker(pytest.mark.skip(reason="exhaustive: `make verify` runs it"))


def pytest_report_header():
    return f"samples: {sample.described()}"


class Said:
    """Prints what a test said by `tell`, in the process that its workers report to."""

    def __init__(self, config) -> None:
        self._config = config

    def pytest_runtest_logreport(self, report) -> None:
        reporter = self._config.pluginmanager.get_plugin("terminalreporter")
        if report.when == "call" and reporter:
            for line in (value for name, value in report.user_properties if name == "said"):
                reporter.write_line(f"    {line}")
