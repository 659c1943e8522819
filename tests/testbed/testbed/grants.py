"""The grants of the function's role, one action at a time, and sessions of the role that are held to some of them.

A session policy takes away from what the role may do, and touches neither the role nor anybody else's session. So a grant
is removed for one process alone: by a session that is allowed everything that the role is granted, but that.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from botocore.credentials import Credentials

from testbed.deployment import IN_THE_EMULATOR
from testbed.testbed import Testbed


@dataclass(frozen=True)
class Grant:
    """One action that one statement allows, and on what."""

    statement: str
    action: str
    resources: tuple[str, ...]

    @property
    def name(self) -> tuple[str, str]:
        return self.statement, self.action


def of_the_role(testbed: Testbed) -> list[Grant]:
    """What template.yaml grants the role: in the role's own policy, and in the sealing key's, which names the role."""
    identities, keys = testbed.boto3("iam"), testbed.boto3("kms")
    role = testbed.role.rpartition("/")[2]
    (policy_name,) = [
        name for name in identities.list_role_policies(RoleName=role)["PolicyNames"] if name != IN_THE_EMULATOR
    ]
    statements = identities.get_role_policy(RoleName=role, PolicyName=policy_name)["PolicyDocument"]["Statement"]
    key_policy = json.loads(keys.get_key_policy(KeyId=testbed.key, PolicyName="default")["Policy"])
    statements += [
        # In a key policy "*" is the key itself.
        each | {"Resource": testbed.key}
        for each in key_policy["Statement"]
        if each["Principal"] == {"AWS": testbed.role} and not each["Sid"].endswith(IN_THE_EMULATOR)
    ]
    return [
        Grant(each["Sid"], action, tuple(_listed(each["Resource"])))
        for each in statements
        for action in _listed(each["Action"])
    ]


def session(testbed: Testbed, grants: Iterable[Grant] | None = None) -> Credentials:
    """Credentials of a session of the role, held to these grants; to whatever the role may do where none are given."""
    limits = {}
    if grants is not None:
        statements = [
            {
                "Effect": "Allow",
                "Action": grant.action,
                # The emulator asks for it on every resource; deployment.py grants it so.
                "Resource": "*" if grant.action == "ssm:GetParametersByPath" else list(grant.resources),
            }
            for grant in grants
        ]
        # A document of its own: passed as text it would have to fit 2,048 characters.
        document = json.dumps({"Version": "2012-10-17", "Statement": statements})
        policy = testbed.boto3("iam").create_policy(PolicyName=f"held-to-{uuid.uuid4()}", PolicyDocument=document)
        limits = {"PolicyArns": [{"arn": policy["Policy"]["Arn"]}]}
    answer = testbed.boto3("sts").assume_role(RoleArn=testbed.role, RoleSessionName="story", **limits)["Credentials"]
    return Credentials(answer["AccessKeyId"], answer["SecretAccessKey"], answer["SessionToken"])


def _listed(one_or_many: str | list[str]) -> list[str]:
    return [one_or_many] if isinstance(one_or_many, str) else one_or_many
