"""External Secrets Operator, with a store that reads Parameter Store in the emulated account."""

import json
import os

from testbed.aws import ACCOUNT, Aws
from testbed.cache import Binaries
from testbed.plane import Plane
from testbed.processes import Processes, free_port, listening

NAMESPACE = "external-secrets"
STORE = "parameter-store"


def install_definitions(binaries: Binaries, plane: Plane) -> None:
    """Creates the operator's resource definitions, and returns when the API server serves them."""
    definitions = str(binaries.external_secrets_definitions)
    plane.kubectl("apply", "--server-side", f"--filename={definitions}")
    plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", f"--filename={definitions}")


def start_operator(processes: Processes, binaries: Binaries, plane: Plane, aws: Aws) -> None:
    """Starts the operator, and returns when it serves its metrics: its controllers start with them."""
    metrics, live = free_port(), free_port()
    processes.start(
        "external-secrets",
        [
            binaries.external_secrets,
            f"--metrics-addr=127.0.0.1:{metrics}",
            f"--live-addr=127.0.0.1:{live}",
            "--enable-leader-election=false",
            # One at a time by default.
            "--concurrent=4",
        ],
        {
            **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
            "KUBECONFIG": str(plane.user("external-secrets", "system:masters")),
            # The operator's own variables for the endpoints of AWS.
            "AWS_SSM_ENDPOINT": aws.endpoint,
            "AWS_STS_ENDPOINT": aws.endpoint,
        },
    )
    processes.wait_until("External Secrets is running", lambda: listening(metrics), "external-secrets")


def create_store(plane: Plane, aws: Aws, user: str = "external-secrets") -> None:
    """Creates the ClusterSecretStore `parameter-store`, whose user may read parameters and decrypt them, nothing else."""
    identities = aws.client("iam")
    identities.create_user(UserName=user)
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": ["ssm:GetParameter", "ssm:GetParameters", "ssm:ListTagsForResource"],
                "Resource": f"arn:aws:ssm:{aws.region}:{ACCOUNT}:parameter/*",
            },
            {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": "*"},
        ],
    }
    identities.put_user_policy(UserName=user, PolicyName="read", PolicyDocument=json.dumps(policy))
    credentials = identities.create_access_key(UserName=user)["AccessKey"]

    def reference(key: str) -> dict[str, str]:
        return {"name": STORE, "namespace": NAMESPACE, "key": key}

    objects = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {"name": STORE, "namespace": NAMESPACE},
            "stringData": {
                "access-key-id": credentials["AccessKeyId"],
                "secret-access-key": credentials["SecretAccessKey"],
            },
        },
        {
            "apiVersion": "external-secrets.io/v1",
            "kind": "ClusterSecretStore",
            "metadata": {"name": STORE},
            "spec": {
                "provider": {
                    "aws": {
                        "service": "ParameterStore",
                        "region": aws.region,
                        "auth": {
                            "secretRef": {
                                "accessKeyIDSecretRef": reference("access-key-id"),
                                "secretAccessKeySecretRef": reference("secret-access-key"),
                            }
                        },
                    }
                }
            },
        },
    ]
    # By way of standard input: the manifest holds the user's secret key.
    plane.kubectl("apply", "--filename=-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))
