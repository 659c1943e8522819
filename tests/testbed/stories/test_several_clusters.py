"""A token in two clusters: one of EKS, in another region and through a role, and one that AWS knows nothing of."""

import json

import pytest

from testbed import tokens
from testbed.aws import CLUSTER, OTHER_REGION
from testbed.deployment import CLUSTER_ROLE
from testbed.small_platform import SmallPlatform

# What specs call the testbed's EKS cluster as it is found elsewhere.
ELSEWHERE = "elsewhere"


pytestmark = [pytest.mark.xdist_group("homelab"), pytest.mark.slow]


@pytest.fixture
def elsewhere(testbed):
    """The EKS cluster in another region, which only a role that the function assumes may describe, and is known to."""
    tokens.create_cluster_role(testbed)
    description = {"eks": {"name": CLUSTER, "region": OTHER_REGION, "role": CLUSTER_ROLE}}
    testbed.boto3("ssm").put_parameter(
        Name=f"{testbed.clusters}/{ELSEWHERE}", Type="String", Value=json.dumps(description)
    )
    return ELSEWHERE


def token_of_two_clusters_survives_outage_of_one(testbed, another_cluster, elsewhere, tell):
    here, there = (SmallPlatform(each, "several") for each in (testbed, another_cluster))
    plane = another_cluster.plane
    with here, there:
        for platform in (here, there):
            platform.create_namespace()
            platform.apply(*platform.external_secrets(), platform.datastore(), platform.backend())
        here.put_spec(_merged(here.spec(overlap="5s"), there.spec(), elsewhere))
        assert here.invoke("publish")["outcome"] == "published"
        for platform in (here, there):
            platform.wait_available("datastore", "backend")
            platform.wait_under_load()

        # One goes away in the middle: the rotation holds under its name, and every token stays valid.
        assert here.invoke("rotate", key="held", wait="0s")["version"] == 2
        plane.kill_api_server()
        held = here.rotate("held")
        assert (held["outcome"], held["version"]) == ("held", 2), held
        assert held["held"]["object"] == f"cluster {another_cluster.cluster}"
        tell(f"held: {held['held']['object']}: {held['held']['reason']}")
        standing = here.status()
        assert [(each["version"], each["not_after"]) for each in standing["versions"]] == [(2, None), (1, None)]
        preflight = here.invoke("preflight")
        assert preflight["outcome"] == "refused"
        refusals = [each["object"] for each in preflight["results"][0]["findings"] if each["severity"] == "refusal"]
        assert refusals == [f"cluster {another_cluster.cluster}"], preflight

        # It is back: the same version completes, in both.
        plane.start_api_server_again()
        answer = here.rotate("again")
        assert (answer["outcome"], answer["version"]) == ("rotated", 2), answer
        for platform in (here, there):
            platform.load.wait_until(lambda new: new and new[-1].version == 2, 30, "requests with the new token")
            tell(platform.load.summary())
            assert platform.load.failed == [], platform.load.failures()

        # Away again, and left behind knowingly.
        plane.kill_api_server()
        try:
            answer = here.invoke("rotate", key="without", without=[another_cluster.cluster])
            assert (answer["outcome"], answer["version"]) == ("rotated", 3), answer
            assert any(f"cluster {another_cluster.cluster} is left out" in each for each in answer["warnings"])
            here.sweep_until_nothing_is_owed()
        finally:
            plane.start_api_server_again()
        here.wait_under_load()
        assert here.load.failed == [], here.load.failures()
        assert list(here.load.by_version()) == [1, 2, 3]


def _merged(here: dict, there: dict, cluster: str) -> dict:
    """The spec of both, the first of which is known by this name."""
    for side in ("verifiers", "presenters"):
        for workload in here[side]["workloads"]:
            workload["cluster"] = cluster
        here[side]["workloads"] += there[side]["workloads"]
    return here
