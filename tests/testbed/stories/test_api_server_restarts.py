"""A cluster's API server is killed in the middle of a rollout's wait, and comes back: the rotation completes, once."""

import threading

import pytest

from testbed import platform
from testbed.small_platform import SmallPlatform


@pytest.mark.xdist_group("homelab")
@pytest.mark.slow
def rotation_survives_api_server_restart(another_cluster, tell):
    with SmallPlatform(another_cluster, "outlives") as small:
        small.create(spec=small.spec(overlap="5s"))
        asked: dict = {}
        rotating = threading.Thread(target=lambda: asked.update(answer=small.rotate("once", seconds=180)))
        rotating.start()
        platform.wait_until(lambda: small.status()["step"] == "roll_out", 60, "the verifiers are rolled", every=0.1)
        platform.wait_until(lambda: _starting(small), 30, "a new verifier starts")
        # Nothing of the rollout goes on before the API server and all who watch it are back.
        another_cluster.plane.kill_api_server()
        another_cluster.plane.start_api_server_again()
        rotating.join(240)

        answer = asked["answer"]
        assert (answer["outcome"], answer["version"]) in (("rotated", 2), ("unchanged", 2)), answer
        standing = small.sweep_until_nothing_is_owed(120)
        assert [(each["version"], each["stage"]) for each in standing["versions"]] == [(2, "current")]
        small.wait_under_load()
        tell(small.load.summary())
        assert small.load.failed == [], small.load.failures()
        assert list(small.load.by_version()) == [1, 2]


def _starting(small: SmallPlatform) -> bool:
    """Whether a third pod is there: the first of the new ones."""
    return len(small.pods("datastore")) > 2
