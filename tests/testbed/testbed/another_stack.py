"""Another stack of `template.yaml` on the same testbed: its own function, records, specs and keys; the cluster and the account are
shared.

Stories that run beside each other have one each, or a sweep of one would carry on the rotations of another.
"""

from __future__ import annotations

from dataclasses import asdict

from testbed import deployment, tokens
from testbed.testbed import Testbed


def created(testbed: Testbed, stack: str) -> Testbed:
    """Creates the stack, from the code that the testbed's own stack was created from; the testbed with this one in its place."""
    aws = testbed.aws
    deployment.create(aws, stack, deployment.template(), {**deployment.parameters(aws), **deployment.paths(stack)})
    return found(testbed, stack)


def found(testbed: Testbed, stack: str) -> Testbed:
    """The testbed with this stack, which was created with `deployment.paths`, in place of its own."""
    deployed = deployment.deployed(testbed.aws, stack)
    tokens.admit(testbed.access_entries, deployed.role, tokens.FUNCTION_USER, tokens.GROUP)
    paths = deployment.paths(stack)
    return testbed.of(**asdict(deployed), specs=paths["Specs"], clusters=paths["Clusters"])
