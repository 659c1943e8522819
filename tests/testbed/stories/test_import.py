"""Tokens that somebody else issues, and items that somebody still edits by hand: rotated to like any other."""

import contextlib
import json
import secrets
import time
import uuid
from collections.abc import Callable, Iterator

import pytest

from testbed import platform, tables
from testbed.dynamic_service import ATTRIBUTES, DynamicService
from testbed.platform import PROJECT
from testbed.testbed import FunctionFailed

# The emulator looks for events every second.
TOLD_SECONDS = 60
# How long a sweep and a rotation may take.
SWEPT_SECONDS = 120


class IssuedService(DynamicService):
    """A service whose token is issued elsewhere, and arrives in an inbox."""

    def __init__(self, testbed, name: str) -> None:
        super().__init__(testbed, name)
        self.inbox = f"/inbox/{name}"

    def spec(self, **changes) -> dict:
        issued = {"token": {"bytes": 32}, "source": {"parameter": self.inbox}}
        return super().spec(**issued, **changes)

    def arrive(self, value: str, kind: str = "SecureString") -> None:
        """An issuer puts a value into the inbox; Parameter Store tells nobody."""
        parameters = self.testbed.boto3("ssm")
        parameters.put_parameter(Name=self.inbox, Type=kind, Value=value, Overwrite=True)

    @contextlib.contextmanager
    def told(self) -> Iterator[Callable[[], None]]:
        """Sends Parameter Store's event of a change through the stack's own rule, but for the sender: nobody else may send as AWS."""
        events = self.testbed.boto3("events")
        stacks = self.testbed.boto3("cloudformation")
        inbox = stacks.describe_stack_resource(StackName=self.testbed.stack, LogicalResourceId="Inbox")
        deployed = inbox["StackResourceDetail"]["PhysicalResourceId"].rpartition("/")[2]
        pattern = json.loads(events.describe_rule(Name=deployed)["EventPattern"])
        (target,) = events.list_targets_by_rule(Rule=deployed)["Targets"]
        assert pattern["source"] == ["aws.ssm"]
        events.put_rule(Name=self.name, EventPattern=json.dumps(pattern | {"source": [self.name]}))
        events.put_targets(Rule=self.name, Targets=[target])

        def tell() -> None:
            detail = {"operation": "Update", "name": self.inbox, "type": "SecureString"}
            event = {"Source": self.name, "DetailType": "Parameter Store Change", "Detail": json.dumps(detail)}
            sent = events.put_events(Entries=[event])
            assert sent["FailedEntryCount"] == 0, sent

        try:
            yield tell
        finally:
            events.remove_targets(Rule=self.name, Ids=[target["Id"]])
            events.delete_rule(Name=self.name)

    def presented(self) -> dict:
        """The item that backends read."""
        dynamodb = self.testbed.boto3("dynamodb")
        return dynamodb.get_item(TableName=self.table, Key={"id": {"S": "service_token"}})["Item"]


@pytest.fixture
def name() -> Iterator[str]:
    yield f"issued-{uuid.uuid4().hex[:8]}"


def arrival_is_rotated_to_without_failed_request(testbed, name, tell):
    issued = [secrets.token_urlsafe(32) for _ in range(3)]
    with IssuedService(testbed, name) as service:
        service.arrive(issued[0])
        assert service.create()["version"] == 1
        assert service.presented()["token"] == {"S": issued[0]}

        # Told by the event, twice.
        service.arrive(issued[1])
        began = time.monotonic()
        with service.told() as told_of_it:
            told_of_it()
            told_of_it()
            platform.wait_until(lambda: service.current_version() == 2, TOLD_SECONDS, "the rotation to what arrived")
        told = time.monotonic() - began
        assert service.presented()["token"] == {"S": issued[1]}

        # No event comes: found by a sweep.
        service.arrive(issued[2])
        began = time.monotonic()
        _sweep_until(service, 3)
        untold = time.monotonic() - began
        assert service.presented()["token"] == {"S": issued[2]}

        standing = service.sweep_until_nothing_is_owed()
        assert [(each["version"], each["stage"]) for each in standing["versions"]] == [(3, "current")]
        assert standing["imported"]["arrival"]["version"] == 3
        service.wait_under_load()
        tell(f"told: {told:.0f} s, untold: {untold:.0f} s; {service.load.summary()}")
        assert service.load.failed == [], service.load.failures()
        item = service.presented()
        assert item["token_version"] == {"N": "3"}


def unfit_arrival_is_refused_and_changes_nothing(testbed, name):
    first, second = (secrets.token_urlsafe(32) for _ in range(2))
    service = IssuedService(testbed, name)
    service.create_table()
    service.put_spec(service.spec())
    with pytest.raises(FunctionFailed) as failed:
        service.invoke("publish")
    assert failed.value.error_type == "PreflightFailed" and service.inbox in str(failed.value)

    service.arrive(first)
    assert service.invoke("publish")["version"] == 1
    assert service.invoke("rotate")["outcome"] == "unchanged"
    event = json.loads((PROJECT / "events" / "import.json").read_text()) | {"parameter": service.inbox}
    for unfit, kind, because in (("hunter2", "SecureString", "characters"), (second, "String", "SecureString")):
        # A parameter keeps its type for life.
        if kind == "String":
            testbed.boto3("ssm").delete_parameter(Name=service.inbox)
        service.arrive(unfit, kind)
        with pytest.raises(FunctionFailed) as failed:
            platform.ask(testbed, event)
        assert failed.value.error_type == "BadToken" and unfit not in str(failed.value)
        assert because in service.status()["imported"]["refused"]
    testbed.boto3("ssm").delete_parameter(Name=service.inbox)
    service.arrive(second)
    assert platform.ask(testbed, event)["version"] == 2
    # The first one again, after its end.
    service.sweep_until_nothing_is_owed()
    service.arrive(first)
    with pytest.raises(FunctionFailed) as failed:
        platform.ask(testbed, event)
    assert failed.value.error_type == "BadToken" and "has ended" in str(failed.value)
    assert service.presented()["token"] == {"S": second}


def each_manual_edit_is_adopted_with_overlap(testbed, name, tell):
    with DynamicService(testbed, name) as service:
        service.create_table("issued-by-hand-long-ago")
        service.put_spec(service.spec(on_drift="adopt", overlap="30s"))
        assert service.invoke("publish")["version"] == 1
        for version in (2, 3):
            token = secrets.token_urlsafe(32)
            service.write_by_hand(token)
            began = time.monotonic()
            _sweep_until(service, version)
            tell(f"version {version}: adopted {time.monotonic() - began:.0f} s after the edit")
            standing = service.status()
            previous = next(each for each in standing["versions"] if each["version"] == version - 1)
            assert previous["stage"] == "previous" and previous["not_after"]
            item = testbed.boto3("dynamodb").get_item(TableName=service.table, Key={"id": {"S": "service_token"}})["Item"]
            assert (item["token"], item["token_version"]) == ({"S": token}, {"N": str(version)})
            assert {name: item[name] for name in ATTRIBUTES} == ATTRIBUTES
            parameter = testbed.boto3("ssm").get_parameter(Name=service.token_parameter, WithDecryption=True)["Parameter"]
            assert parameter["Value"] == token
        assert service.status()["drift"] == []


def _sweep_until(service: DynamicService, version: int) -> None:
    """Sweeps until presenters are on this version, as the stack's rule does: it looks at such a token each minute."""
    testbed = service.testbed
    tables.make_due(testbed.boto3("dynamodb"), testbed.table, service.token, compare=True)
    service.sweep_until(lambda _: service.current_version() == version, SWEPT_SECONDS, f"version {version} of {service.token}")
