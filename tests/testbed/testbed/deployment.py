"""The project's own function and template, deployed to the emulated account."""

import hashlib
import io
import json
import os
import shlex
import subprocess
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

from testbed import subscription
from testbed.aws import ACCOUNT, CLUSTER, Aws

PROJECT = Path(__file__).resolve().parents[3]
STACK = "changeover"
CODE_BUCKET = "changeover-testbed-code"
PUBLICATION_PATH = "/coilysiren"
INBOX_PATH = "/inbox"
# Nobody specifies it.
SCHEDULED_TOKEN = "monthly-token"
# What a story may create to reach a cluster through; the function may assume it.
CLUSTER_ROLE = f"arn:aws:iam::{ACCOUNT}:role/changeover-clusters"
# Low, so that a killed invocation is taken over within a test's patience; the emulator applies no call late.
LEASE = "5s"
LATE_WRITE = "10s"
# Marks what is granted for the emulator's sake, and is no part of the template.
IN_THE_EMULATOR = "InTheEmulator"


class DeploymentFailed(Exception):
    """The function was not built, or its stack was not created."""


@dataclass(frozen=True)
class Deployment:
    """What the stack's outputs say."""

    stack: str
    function: str
    role: str
    table: str
    key: str
    publication_key: str
    log_group: str


def build_rotator() -> Path:
    """Builds the function with the development profile, and the command beside it; returns the function's path."""
    binaries = ["--bin", "rotator", "--bin", "changeover"]
    command = ["cargo", "build", "--locked", "--workspace", *binaries, "--message-format=json-render-diagnostics"]
    print("testbed: building the function and the command (about 4 minutes on two cores the first time)", flush=True)
    built = subprocess.run(command, cwd=PROJECT, text=True, stdout=subprocess.PIPE)
    if built.returncode != 0:
        raise DeploymentFailed(f"{' '.join(command)} in {PROJECT} ended with {built.returncode}; its messages are above")
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message["reason"] == "compiler-artifact" and message["target"]["name"] == "rotator" and message["executable"]:
            return Path(message["executable"])
    raise DeploymentFailed(f"{' '.join(command)} named no executable called rotator")


def package(rotator: Path, directory: Path, log: Path) -> bytes:
    """The function's code as Lambda takes it, a zip: the stripped binary, and a `bootstrap` that becomes that binary.

    The emulator keeps a function's output until the invocation ends, and a rotation waits for minutes. So `bootstrap` sends
    the output to a file too. It is replaced by the binary, whose process identity the emulator therefore knows.
    """
    stripped = directory / "rotator"
    subprocess.run(["strip", "-o", str(stripped), str(rotator)], check=True)
    bootstrap = f"""#!/bin/bash
exec "$LAMBDA_TASK_ROOT/rotator" > >(exec tee -a {shlex.quote(str(log))}) 2>&1
"""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as code:
        for name, content in (("bootstrap", bootstrap.encode()), ("rotator", stripped.read_bytes())):
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o755 << 16
            code.writestr(entry, content)
    stripped.unlink()
    return archive.getvalue()


def deploy(aws: Aws, code: bytes) -> Deployment:
    """Creates the stack of `template.yaml`, and returns when it is complete."""
    subscription.create_bus(aws)
    storage = aws.client("s3")
    storage.create_bucket(Bucket=CODE_BUCKET, CreateBucketConfiguration={"LocationConstraint": aws.region})
    storage.put_object(Bucket=CODE_BUCKET, Key="rotator.zip", Body=code)
    create(aws, STACK, template(), parameters(aws))
    return deployed(aws, STACK)


def deployed(aws: Aws, stack: str) -> Deployment:
    """What the outputs of a stack of `template.yaml` say; grants its role what the emulator does not find granted."""
    (found,) = aws.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in found["Outputs"]}
    grant_what_the_emulator_cannot_evaluate(aws, outputs["RoleArn"].rpartition("/")[2], outputs["SealingKeyArn"])
    return Deployment(
        stack=stack,
        function=outputs["FunctionName"],
        role=outputs["RoleArn"],
        table=outputs["TableName"],
        key=outputs["SealingKeyArn"],
        publication_key=outputs["PublicationKeyArn"],
        log_group=outputs["LogGroupName"],
    )


def template() -> str:
    """`template.yaml`, packaged as `sam package` does it: the emulator fetches code from a bucket, never from a directory."""
    text, directory = (PROJECT / "template.yaml").read_text(), "      CodeUri: .\n"
    if text.count(directory) != 1:
        raise DeploymentFailed(f"template.yaml should say {directory.strip()!r} once, of its only function")
    return text.replace(directory, f"      CodeUri: s3://{CODE_BUCKET}/rotator.zip\n")


def translated(aws: Aws, **changes: str) -> dict[str, Any]:
    """The resources of `template.yaml` after its translation, as CloudFormation does it. `changes` replace parameters."""
    document = yaml_parse(template())
    defaults = {name: each["Default"] for name, each in document["Parameters"].items() if "Default" in each}
    managed_policies = SimpleNamespace(load=dict)
    os.environ.setdefault("AWS_DEFAULT_REGION", aws.region)
    return transform(document, {**defaults, **parameters(aws), **changes}, managed_policies)["Resources"]


def parameters(aws: Aws) -> dict[str, str]:
    """What `template.yaml` is deployed with."""
    return {
        "Architecture": "x86_64",
        # The emulator has no CodeDeploy.
        "AutomaticRollback": "false",
        "ClusterName": CLUSTER,
        "ClusterRoles": CLUSTER_ROLE,
        "PublicationPath": PUBLICATION_PATH,
        # By a schedule that comes once a month: stories take its target for schedules of their own.
        "ScheduledToken": SCHEDULED_TOKEN,
        "PublishedTables": f"arn:aws:dynamodb:{aws.region}:{ACCOUNT}:table/my-service-*",
        "PublishedKeyAttributes": "id",
        "InboxPath": INBOX_PATH,
        "EventBus": subscription.BUS,
        "EndpointUrl": aws.endpoint,
        "Lease": LEASE,
        "LateWrite": LATE_WRITE,
        "Log": "info,changeover=debug",
    }


def paths(stack: str) -> dict[str, str]:
    """The parameters that keep the specs and the clusters of a stack apart from those of others."""
    return {"Specs": f"/{stack}/tokens", "Clusters": f"/{stack}/clusters"}


def uploaded(aws: Aws, template: str) -> str:
    """The URL of a template in a bucket, as `sam deploy` hands it over: CloudFormation takes 51,200 bytes otherwise."""
    # Stories upload templates at the same time.
    key = f"{hashlib.sha256(template.encode()).hexdigest()}.yaml"
    aws.client("s3").put_object(Bucket=CODE_BUCKET, Key=key, Body=template.encode())
    return f"{aws.endpoint}/{CODE_BUCKET}/{key}"


def create(aws: Aws, stack: str, template: str, parameters: dict[str, str]) -> dict[str, str]:
    """Creates a stack, and returns its outputs when it is complete."""
    stacks = aws.client("cloudformation")
    stacks.create_stack(
        StackName=stack,
        TemplateURL=uploaded(aws, template),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()],
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_NAMED_IAM", "CAPABILITY_AUTO_EXPAND"],
    )
    deadline = time.monotonic() + 60
    while (created := stacks.describe_stacks(StackName=stack)["Stacks"][0])["StackStatus"].endswith("_IN_PROGRESS"):
        if time.monotonic() > deadline:
            raise DeploymentFailed(f"stack {stack} is still {created['StackStatus']} after 60 s")
        time.sleep(0.1)
    if created["StackStatus"] != "CREATE_COMPLETE":
        failures = [
            f"{event['LogicalResourceId']}: {event.get('ResourceStatusReason')}"
            for event in stacks.describe_stack_events(StackName=stack)["StackEvents"]
            if event["ResourceStatus"].endswith("_FAILED")
        ]
        raise DeploymentFailed(f"stack {stack} is {created['StackStatus']}: {'; '.join(failures)}")
    return {output["OutputKey"]: output["OutputValue"] for output in created.get("Outputs", [])}


def grant_what_the_emulator_cannot_evaluate(aws: Aws, role: str, key: str) -> None:
    """Grants, beside the template's policies, what the emulator would never find in them.

    It reads no path out of GetParametersByPath and asks for a right to every resource, where AWS asks for the path's.
    It knows no condition on KMS's encryption context, and takes such a statement for one about others.
    """
    identities, keys = aws.client("iam"), aws.client("kms")
    listing = {"Effect": "Allow", "Action": "ssm:GetParametersByPath", "Resource": "*"}
    policy = {"Version": "2012-10-17", "Statement": [listing]}
    identities.put_role_policy(RoleName=role, PolicyName=IN_THE_EMULATOR, PolicyDocument=json.dumps(policy))

    policy = json.loads(keys.get_key_policy(KeyId=key, PolicyName="default")["Policy"])
    (seal,) = [each for each in policy["Statement"] if "Condition" in each]
    unconditional = {name: value for name, value in seal.items() if name != "Condition"}
    policy["Statement"].append({**unconditional, "Sid": f"{seal['Sid']}{IN_THE_EMULATOR}"})
    keys.put_key_policy(KeyId=key, PolicyName="default", Policy=json.dumps(policy))
