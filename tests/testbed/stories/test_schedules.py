"""Rules, schedules and Lambda's own retries rotate; whatever is delivered twice, late or after a crash mints once."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from testbed import platform, tables
from testbed.deployment import PROJECT, SCHEDULED_TOKEN
from testbed.dynamic_service import DynamicService

# The emulator looks at its rules and schedules every 10 s; the rest is the rotation itself.
FIRED_SECONDS = 120
# Three tries, a second and two apart in the emulator.
FAILED_SECONDS = 60
# Due at the same time, of which a sweep carries on eight.
TOKENS = 40


@pytest.fixture
def service(testbed) -> Iterator[DynamicService]:
    """A token in service whose readers fetch it for themselves."""
    service = DynamicService(testbed, f"scheduled-{uuid.uuid4().hex[:8]}")
    with service:
        service.create_table()
        service.put_spec(service.spec())
        assert service.invoke("publish")["version"] == 1
        yield service


def rule_rotates_token_to_completion(testbed, service, tell):
    (template,) = re.findall(r"InputTemplate: !Sub '(.+)'", (PROJECT / "template.yaml").read_text())
    rules = testbed.boto3("events")
    began = time.monotonic()
    rules.put_rule(Name=service.name, ScheduleExpression="rate(1 minute)")
    transformer = {
        "InputPathsMap": {"time": "$.time"},
        "InputTemplate": template.replace("${ScheduledToken}", service.token),
    }
    target = {"Id": "rotator", "Arn": f"{_function(testbed)['FunctionArn']}:live", "InputTransformer": transformer}
    rules.put_targets(Rule=service.name, Targets=[target])
    try:
        platform.wait_until(lambda: service.current_version() == 2, FIRED_SECONDS, "the rule's rotation", every=1)
    finally:
        rules.remove_targets(Rule=service.name, Ids=["rotator"])
        rules.delete_rule(Name=service.name)
    standing = service.sweep_until_nothing_is_owed()
    assert [(each["version"], each["stage"]) for each in standing["versions"]] == [(2, "current")]
    tell(f"a rule rotated; at rest {time.monotonic() - began:.0f} s after it was made")


def schedule_rotates_token_to_completion(testbed, service, tell):
    schedules = testbed.boto3("scheduler")
    resource = testbed.boto3("cloudformation").describe_stack_resource(
        StackName=testbed.stack, LogicalResourceId="RotationSchedule"
    )["StackResourceDetail"]
    deployed = schedules.get_schedule(Name=resource["PhysicalResourceId"])
    assert json.loads(deployed["Target"]["Input"])["token"] == SCHEDULED_TOKEN

    began = time.monotonic()
    at = (datetime.now(timezone.utc) + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%S")
    arn = deployed["Arn"].replace(deployed["Name"], service.name)
    # AWS fills these in; the emulator does not.
    sent = deployed["Target"]["Input"].replace(SCHEDULED_TOKEN, service.token)
    sent = sent.replace("<aws.scheduler.schedule-arn>", arn).replace("<aws.scheduler.scheduled-time>", f"{at}Z")
    schedules.create_schedule(
        Name=service.name,
        ScheduleExpression=f"at({at})",
        FlexibleTimeWindow={"Mode": "OFF"},
        ActionAfterCompletion="DELETE",
        Target={"Arn": deployed["Target"]["Arn"], "RoleArn": deployed["Target"]["RoleArn"], "Input": sent},
    )
    platform.wait_until(lambda: service.current_version() == 2, FIRED_SECONDS, "the schedule's rotation", every=1)
    again = service.rotate(json.loads(sent)["key"])
    assert (again["outcome"], again["version"]) == ("unchanged", 2)
    service.sweep_until_nothing_is_owed()
    tell(f"a schedule rotated; at rest {time.monotonic() - began:.0f} s after it was made")


def duplicate_late_or_retried_event_mints_once(testbed, service, tell):
    event = {"action": "rotate", "token": service.token, "key": "rule 2026-12-01T04:00:00Z"}
    for _ in range(2):
        _deliver(testbed, event)
    platform.wait_until(lambda: service.current_version() == 2, FIRED_SECONDS, "the rotation that came twice", every=0.5)
    service.sweep_until_nothing_is_owed()
    before = _invocations(testbed, service.token)
    _deliver(testbed, event)
    platform.wait_until(lambda: _invocations(testbed, service.token) > before, 30, "the event that came late")
    assert (service.rotate(event["key"])["outcome"], service.current_version()) == ("unchanged", 2)

    # So long that it is in the middle of it.
    spec = service.spec()
    spec["verifiers"]["within"] = "4s"
    service.put_spec(spec)
    event["key"] = "rule 2027-01-01T04:00:00Z"
    before = _invocations(testbed, service.token)
    _deliver(testbed, event)
    platform.wait_until(lambda: service.status()["rotation"], 30, "a rotation under way")
    killed = _kill_the_function(testbed)
    assert killed
    # The first try, and Lambda's own second one.
    platform.wait_until(lambda: _invocations(testbed, service.token) >= before + 2, 30, "Lambda's own retry")
    service.sweep_until(lambda _: service.current_version() == 3, 90, "the rotation that was killed")
    assert (service.rotate(event["key"])["outcome"], service.current_version()) == ("unchanged", 3)
    standing = service.sweep_until_nothing_is_owed()
    assert [(each["version"], each["stage"]) for each in standing["versions"]] == [(3, "current")]
    tell(f"delivered twice, late, and again after {killed} processes were killed: one version each")


def failed_event_is_kept_with_error_without_token(testbed, service, tell):
    value = "edited-by-hand-and-nobody-elses-business"
    key = {"id": {"S": "service_token"}}
    testbed.boto3("dynamodb").update_item(
        TableName=service.table, Key=key, UpdateExpression="SET #token = :value",
        ExpressionAttributeNames={"#token": "token"}, ExpressionAttributeValues={":value": {"S": value}},
    )
    event = {"action": "rotate", "token": service.token, "key": "rule 2026-12-01T04:00:00Z"}
    before = _invocations(testbed, service.token)
    _deliver(testbed, event)
    outputs = testbed.boto3("cloudformation").describe_stacks(StackName=testbed.stack)["Stacks"][0]["Outputs"]
    (queue,) = [each["OutputValue"] for each in outputs if each["OutputKey"] == "FailedEventsUrl"]
    queues = testbed.boto3("sqs")

    def kept() -> dict | None:
        messages = queues.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=1).get("Messages", [])
        bodies = [json.loads(message["Body"]) for message in messages]
        return next((body for body in bodies if body["requestPayload"] == event), None)

    failed = platform.wait_until(kept, FAILED_SECONDS, "the event in the queue")
    assert failed["responsePayload"]["errorType"] == "PreflightFailed"
    assert service.table in failed["responsePayload"]["errorMessage"]
    assert value not in json.dumps(failed)
    assert _invocations(testbed, service.token) == before + 3
    tell(f"after three tries: {failed['responsePayload']['errorMessage']}")


def sweep_hands_on_forty_due_tokens_to_completion(testbed, tell):
    name = f"handed-on-{uuid.uuid4().hex[:8]}"
    owed = [f"{name}-{number:02}" for number in range(TOKENS)]
    dynamodb, parameters = testbed.boto3("dynamodb"), testbed.boto3("ssm")
    published = f"my-service-{name}-config"
    tables.create_configuration(dynamodb, published)

    def mint(token: str) -> str:
        def side(view: str) -> dict:
            return {"publish": [{"dynamodb": {"table": published, "key": {"id": f"{token}-{view}"}}}], "within": "0s"}

        spec = {"token": {"bytes": 32}, "overlap": "5s", "verifiers": side("accepted"), "presenters": side("token")}
        parameters.put_parameter(Name=f"{testbed.specs}/{token}", Type="String", Value=json.dumps(spec))
        item = {"id": {"S": f"{token}-token"}, "token": {"S": f"issued-long-ago-for-{token}"}}
        dynamodb.put_item(TableName=published, Item=item)
        return testbed.invoke({"action": "rotate", "token": token, "wait": "0s"})["outcome"]

    def versions() -> Counter:
        standing = testbed.invoke({"action": "status"})["results"]
        ours = [each for each in standing if each["token"] in owed]
        return Counter(tuple((it["version"], it["stage"]) for it in each["versions"]) for each in ours)

    with _without_the_sweep_of_each_minute(testbed):
        with ThreadPoolExecutor(4) as executor:
            assert set(executor.map(mint, owed)) == {"in_progress"}
        began = time.monotonic()
        swept = testbed.invoke({"action": "sweep"}, qualifier="sweep")
        told = Counter(each.get("outcome", each.get("error")) for each in swept["results"] if each["token"] in owed)
        assert told.total() == TOKENS and told["handed_on"] >= TOKENS - 8, told
        rotated = {((2, "current"), (1, "previous")): TOKENS}
        platform.wait_until(lambda: versions() == rotated, 120, f"{TOKENS} rotations", every=1)
        tell(f"{TOKENS} due tokens, {dict(told)}; all rotated {time.monotonic() - began:.0f} s after the sweep began")

        def at_rest() -> bool:
            testbed.invoke({"action": "sweep"}, qualifier="sweep")
            return versions() == {((2, "current"),): TOKENS}

        platform.wait_until(at_rest, 120, f"{TOKENS} tokens at rest", every=5)
    for token in owed:
        parameters.delete_parameter(Name=f"{testbed.specs}/{token}")


def _function(testbed) -> dict:
    return testbed.boto3("lambda").get_function_configuration(FunctionName=testbed.function)


def _deliver(testbed, event: dict) -> None:
    """Invokes as rules, schedules and pipelines do: without waiting for the answer, and Lambda retries a failure. By no alias: the
    emulator keeps what failed for the function itself alone."""
    answer = testbed.boto3("lambda").invoke(
        FunctionName=testbed.function, InvocationType="Event", Payload=json.dumps(event).encode()
    )
    assert answer["StatusCode"] == 202


def _invocations(testbed, token: str) -> int:
    """How often an invocation decided about a rotation of the token."""
    found = 0
    for line in testbed.function_log.read_text(errors="replace").splitlines():
        if '"plan"' in line and f'"{token}"' in line:
            entry = json.loads(line)
            found += entry["message"] == "plan" and entry["action"].startswith("Rotate")
    return found


def _kill_the_function(testbed) -> int:
    """Kills every process of the stack's deployed function, and returns how many there were."""
    named = f"AWS_LAMBDA_FUNCTION_NAME={testbed.function}".encode()
    killed = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            program = os.readlink(process / "exe")
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        # What stories start themselves is another file.
        if program.startswith(f"{testbed.directory}/") and Path(program).name == "rotator" and named in environment:
            os.kill(int(process.name), signal.SIGKILL)
            killed += 1
    return killed


@contextlib.contextmanager
def _without_the_sweep_of_each_minute(testbed) -> Iterator[None]:
    rules = testbed.boto3("events")
    sweep = testbed.boto3("cloudformation").describe_stack_resource(StackName=testbed.stack, LogicalResourceId="Sweep")
    name = sweep["StackResourceDetail"]["PhysicalResourceId"]
    rules.disable_rule(Name=name)
    try:
        yield
    finally:
        rules.enable_rule(Name=name)
