"""The function's binary under our runtime interface answers, fails and dies as it does on Lambda."""

import threading

import pytest

from testbed import runtime_interface
from testbed.runtime_interface import Function, FunctionDied
from testbed.testbed import FunctionFailed, Testbed


@pytest.fixture
def function(testbed: Testbed):
    with Function(testbed.rotator, runtime_interface.environment(testbed), testbed.logs / "by-hand.log") as function:
        yield function


def function_answers_successive_invocations(function: Function) -> None:
    assert [function.invoke({"action": "status"})["outcome"] for _ in range(3)] == ["reported"] * 3


def function_error_is_returned_with_type(function: Function) -> None:
    with pytest.raises(FunctionFailed) as failed:
        function.invoke({"action": "dance"})
    assert failed.value.error_type == "BadEvent"
    assert function.invoke({"action": "status"})["outcome"] == "reported"


def death_of_function_is_reported_to_caller(testbed: Testbed) -> None:
    # Nobody answers there, so that it waits until it is killed.
    waiting = runtime_interface.environment(testbed, AWS_ENDPOINT_URL="http://127.0.0.1:9")
    with Function(testbed.rotator, waiting, testbed.logs / "by-hand.log") as function:
        threading.Timer(0.5, function.kill).start()
        for _ in range(2):
            with pytest.raises(FunctionDied) as died:
                function.invoke({"action": "status"})
            assert died.value.code == -9


def invocation_over_time_limit_is_killed(testbed: Testbed) -> None:
    waiting = runtime_interface.environment(testbed, AWS_ENDPOINT_URL="http://127.0.0.1:9")
    with Function(testbed.rotator, waiting, testbed.logs / "by-hand.log") as function:
        with pytest.raises(FunctionDied):
            function.invoke({"action": "status"}, seconds=0.5)
