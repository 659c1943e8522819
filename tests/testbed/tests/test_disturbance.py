"""What the tests that disturb the function rely on: that kills hit where they are meant to, and that a wrong end is seen."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator

import pytest
from botocore.config import Config
from botocore.exceptions import HTTPClientError

from testbed import light_platform
from testbed import platform as platforms
from testbed.cutting_proxy import Background, Cut, CuttingProxy
from testbed.end_of_rotation import Cluster, Observed
from testbed.light_platform import LightPlatform
from testbed.readers import Readers
from testbed.testbed import Testbed

# Two of them share a platform.
pytestmark = pytest.mark.xdist_group("disturbance")


@pytest.mark.parametrize("after", [False, True], ids=["before it leaves", "after it was applied"])
def call_is_cut_at_requested_moment(testbed: Testbed, after: bool) -> None:
    name = f"/testbed/cut-{uuid.uuid4()}"
    killed: list[str] = []
    with Background() as loop, CuttingProxy(testbed, loop) as proxy:
        parameters = testbed.boto3("ssm", endpoint_url=proxy.endpoint, config=Config(retries={"total_max_attempts": 1}))
        proxy.cut(Cut(2, after), lambda: killed.append("here"))
        parameters.put_parameter(Name=name, Type="String", Value="first")
        with pytest.raises(HTTPClientError):
            parameters.put_parameter(Name=name, Type="String", Value="second", Overwrite=True)
        assert (killed, proxy.calls) == (["here"], ["AmazonSSM.PutParameter"] * 2)
    assert testbed.boto3("ssm").get_parameter(Name=name)["Parameter"]["Value"] == ("second" if after else "first")


@pytest.fixture(scope="module")
def platform(testbed: Testbed) -> Iterator[LightPlatform]:
    with light_platform.light_platforms(testbed, "watched", 1) as (platform,):
        yield platform


def edited_end_state_is_detected(platform: LightPlatform) -> None:
    before = Observed(platform, Cluster(platform.testbed))
    assert platform.invoke("rotate")["outcome"] == "rotated"
    platform.sweep_to_rest()
    at_rest = before.end()
    with _edited(platform, platform.token_item, "token_version", {"N": "7"}):
        assert before.end() != at_rest
    assert before.end() == at_rest


def refusal_of_reader_is_detected(platform: LightPlatform) -> None:
    with Readers([platform]) as readers:
        platforms.wait_until(lambda: readers.asked > 20, 30, "readers have asked")
        assert readers.refused == []
        with _edited(platform, platform.token_item, "token", {"S": "nobody accepts this"}):
            # By readers and by pods.
            platforms.wait_until(
                lambda: len({refusal.partition(" refused")[0] for refusal in readers.refused}) > 1, 30, "both refuse it"
            )


@contextlib.contextmanager
def _edited(platform: LightPlatform, item: str, attribute: str, value: dict[str, str]) -> Iterator[None]:
    """The item with another value, which it has had before when the block ends."""
    key = {"id": {"S": item}}
    found = platform.tables.get_item(TableName=platform.published, Key=key)["Item"]
    platform.tables.put_item(TableName=platform.published, Item=found | {attribute: value})
    try:
        yield
    finally:
        platform.tables.put_item(TableName=platform.published, Item=found)
