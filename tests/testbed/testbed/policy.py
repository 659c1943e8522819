"""What a cluster needs of changeover once: the policies and the rights of infra/eks-policy.yaml, to the letter."""

import json
import time
from pathlib import Path

from testbed.kubectl import KubectlFailed
from testbed.plane import Plane
from testbed.tokens import GROUP

MANIFEST = Path(__file__).resolve().parents[3] / "infra" / "eks-policy.yaml"

# Changeover's group may create none of these, whatever its rights.
REFUSED = [
    {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "spec": {
            "selector": {"matchLabels": {"app": "probe"}},
            "template": {
                "metadata": {"labels": {"app": "probe"}},
                "spec": {"containers": [{"name": "main", "image": "local/process"}]},
            },
        },
    },
    {"apiVersion": "external-secrets.io/v1", "kind": "ExternalSecret", "spec": {}},
    {"apiVersion": "v1", "kind": "Secret"},
]


def put_in_force(plane: Plane) -> None:
    """Applies the manifest, and returns when the API server refuses what each policy forbids."""
    plane.kubectl("apply", f"--filename={MANIFEST}")
    end = time.monotonic() + 30
    for probe in REFUSED:
        while not _is_refused(plane, probe):
            if time.monotonic() > end:
                raise TimeoutError(f"no policy of {MANIFEST} is in force for {probe['kind']}s")
            time.sleep(0.1)


def _is_refused(plane: Plane, probe: dict) -> bool:
    """Whether somebody who may do everything, and is of the group, is refused by a policy. Nothing is created."""
    manifest = json.dumps(probe | {"metadata": {"name": "probe", "namespace": "default"}})
    somebody = ["--as=probe", f"--as-group={GROUP}", "--as-group=system:masters"]
    try:
        plane.kubectl("create", "--dry-run=server", "--filename=-", *somebody, stdin=manifest)
    except KubectlFailed as refusal:
        return "ValidatingAdmissionPolicy" in str(refusal)
    return False
