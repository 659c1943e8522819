"""What becomes of a token is told to whoever subscribed, and measured where CloudWatch looks for it."""

import json
import time
import uuid

import jsonschema
import pytest

from testbed import grants, platform, runtime_interface, subscription
from testbed.deployment import PROJECT
from testbed.dynamic_service import DynamicService
from testbed.runtime_interface import Function

# Its fixtures are made once for the whole file.
pytestmark = pytest.mark.xdist_group("events")

SCHEMAS = {
    schema["title"]: jsonschema.Draft202012Validator(schema)
    for schema in (json.loads(path.read_text()) for path in (PROJECT / "events" / "schema").glob("*.json"))
}
ROTATED_ONCE = [
    # Created, and published for the first time.
    ("Rotation Started", None),
    ("Version Stage Changed", (1, "current")),
    ("Rotation Completed", None),
    # Rotated, and the old version ended.
    ("Rotation Started", None),
    ("Version Stage Changed", (2, "pending")),
    ("Version Stage Changed", (2, "current")),
    ("Version Stage Changed", (1, "previous")),
    ("Rotation Completed", None),
    ("Version Stage Changed", (1, "retired")),
]


@pytest.fixture(scope="module")
def service(testbed):
    service = DynamicService(testbed, f"told-{uuid.uuid4().hex[:8]}")
    service.create_table()
    service.put_spec(service.spec())
    return service


def rotation_events_are_published_in_stage_order(testbed, service, tell):
    subscribed = subscription.subscribe(testbed.aws, service.name, {"token": [service.token]})
    assert service.invoke("publish")["outcome"] == "published"
    rotated = service.rotate("told")
    assert rotated["outcome"] == "rotated"
    service.sweep_until_nothing_is_owed()
    platform.wait_until(lambda: len(subscribed.arrived()) >= len(ROTATED_ONCE), 30, "the last event")

    told = subscribed.arrived()
    for event in told:
        SCHEMAS[event["detail-type"]].validate(event)
    assert [_in_short(event) for event in told] == ROTATED_ONCE
    revisions = [event["detail"]["revision"] for event in told]
    assert revisions == sorted(revisions)
    completed = told[7]["detail"]
    assert completed["rotation"] == rotated["rotation"]
    assert completed["selectors"] == rotated["selectors"]
    assert completed["previous_valid_until"] == rotated["previous_valid_until"]
    tell(f"{len(told)} events, each of its schema")


def rotation_is_measured_in_function_log(testbed, service, tell):
    # Each minute the sweep is measured too; this one does not wait for it.
    service.sweep()
    outcome = platform.wait_until(lambda: _measured(testbed, "Sweeps"), 30, "a sweep that is measured")
    assert all(line["Sweeps"] == 1 for line in outcome)
    about = [line for line in _measured(testbed) if line.get("token") == service.token]
    steps = [(line["Leg"], line["Step"]) for line in about if "StepDuration" in line]
    assert ("migrate", "publish") in steps and ("contract", "retire") in steps
    (rotation,) = [line["RotationDuration"] for line in about if "RotationDuration" in line]
    assert 0 < rotation < 120_000
    assert all(0 <= line["CurrentAge"] < 3600 for line in about if "CurrentAge" in line)
    calls = [line["AwsCalls"] for line in _measured(testbed, "AwsCalls")]
    assert all(calls)
    tell(f"{len(_measured(testbed))} lines, a rotation of {rotation / 1000:.1f} s, at most {max(calls)} calls an invocation")


def refused_events_are_counted_without_delay(testbed):
    trial = DynamicService(testbed, f"told-{uuid.uuid4().hex[:8]}")
    trial.create_table()
    trial.put_spec(trial.spec())
    without = [each for each in grants.of_the_role(testbed) if each.action != "events:PutEvents"]
    environment = runtime_interface.environment(testbed, grants.session(testbed, without))
    with Function(testbed.rotator, environment, testbed.logs / "told-nobody.log") as function:
        began = time.monotonic()
        assert function.invoke({"action": "publish", "token": trial.token})["outcome"] == "published"
        assert time.monotonic() - began < 30
        lines = [json.loads(line) for line in function.log.read_text().splitlines()]
    refused = [line for line in lines if line.get("message") == "events not sent"]
    assert refused and all("events:PutEvents" in line["error"] for line in refused)
    # Started and current; completed.
    assert sum(line.get("EventsNotSent", 0) for line in lines) == 3


def _in_short(event: dict) -> tuple:
    detail = event["detail"]
    return event["detail-type"], (detail["version"], detail["stage"]) if "stage" in detail else None


def _measured(testbed, metric: str | None = None) -> list[dict]:
    """The lines of the function's log from which CloudWatch makes metrics, or one metric."""
    lines = [line for line in testbed.function_log.read_text().splitlines() if '"_aws"' in line]
    found = []
    # Other stacks have metrics of their own.
    for line in (line for line in map(json.loads, lines) if line["FunctionName"] == testbed.function):
        for directive in line["_aws"]["CloudWatchMetrics"]:
            assert directive["Namespace"] == "changeover"
            for each in directive["Metrics"]:
                assert isinstance(line[each["Name"]], int)
            assert all(isinstance(line[key], str) for keys in directive["Dimensions"] for key in keys)
            assert all("FunctionName" in keys for keys in directive["Dimensions"])
        if metric is None or metric in line:
            found.append(line)
    return found
