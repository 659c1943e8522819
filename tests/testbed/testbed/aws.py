"""AWS on this computer: ministack for everything, moto beside it for Parameter Store's limits."""

import base64
import json
import os
import sys
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from testbed.processes import Processes, free_port

ACCOUNT = "000000000000"
REGION = "eu-west-1"
CLUSTER = "demo"
# The region in which EKS knows the same API server once more, for who looks for a cluster there.
OTHER_REGION = "us-east-2"

# A waiting rotation holds its invocation for up to Lambda's 15 minutes; an SDK that gave up earlier would invoke again.
PATIENT = Config(read_timeout=920, retries={"total_max_attempts": 1})


@dataclass(frozen=True)
class Aws:
    """An emulated account, and the credentials of its administrator."""

    endpoint: str
    # Where deployed functions look for CodePipeline, which the emulator is not: a story that plays it listens there.
    code_pipeline: str
    region: str = REGION
    access_key_id: str = "test"
    secret_access_key: str = field(default="test", repr=False)

    @property
    def environment(self) -> dict[str, str]:
        """The variables by which programs use the account as its administrator, and no profile of whoever runs them."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_REGION": self.region,
            # What version 1 of the AWS CLI and boto3 read.
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self, service: str, **options: Any) -> Any:
        """A boto3 client of the account's administrator."""
        return boto3.client(
            service,
            **{
                "endpoint_url": self.endpoint,
                "region_name": self.region,
                "aws_access_key_id": self.access_key_id,
                "aws_secret_access_key": self.secret_access_key,
                **options,
            },
        )


def emulated() -> Aws:
    """An account on free ports, where nothing answers yet."""
    return Aws(endpoint=f"http://127.0.0.1:{free_port()}", code_pipeline=f"http://127.0.0.1:{free_port()}")


def save_cluster(directory: Path, api_server: str, certificate_authority: Path) -> None:
    """Saves the state from which an emulator that is started afterwards knows the API server as EKS cluster `demo`."""
    (_state(directory) / "eks.json").write_text(json.dumps(_clusters(api_server, certificate_authority)))


def start_ministack(processes: Processes, aws: Aws, directory: Path) -> None:
    """Starts the emulator on the state that is saved in the directory, and returns when it answers."""
    state = _state(directory)
    home = state.parent
    # Nothing of the caller's AWS settings may reach it: the functions that it runs inherit its environment.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "CHANGEOVER_"))}
    environment |= {
        "BIND_HOST": "127.0.0.1",
        "MINISTACK_HOST": "127.0.0.1",
        "GATEWAY_PORT": aws.endpoint.rpartition(":")[2],
        "MINISTACK_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        # Handed on to the functions.
        "AWS_ENDPOINT_URL": aws.endpoint,
        "AWS_ENDPOINT_URL_CODEPIPELINE": aws.code_pipeline,
        # Without it wrong signatures pass, policies are not evaluated, and functions run as root instead of their role.
        "AUTH": "true",
        "PERSIST_STATE": "1",
        "STATE_DIR": str(state),
        # It unpacks functions below the temporary directory and leaves them there.
        "TMPDIR": str(home),
        "HOME": str(home),
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
    }
    processes.start("ministack", [sys.executable, "-m", "testbed.ministack"], environment, home)
    processes.wait_until("the AWS emulator is ready", lambda: _answers(f"{aws.endpoint}/_ministack/health"), "ministack")


def start_moto(processes: Processes, aws: Aws) -> str:
    """Starts moto, and returns its endpoint when its Parameter Store answers."""
    port = free_port()
    processes.start("moto", [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)])
    endpoint = f"http://127.0.0.1:{port}"
    processes.wait_until("moto is ready", lambda: _answers(f"{endpoint}/moto-api/"), "moto")
    # The first request of a service loads it, which takes longer than the function waits for an answer.
    aws.client("ssm", endpoint_url=endpoint).describe_parameters()
    return endpoint


def _state(directory: Path) -> Path:
    """The directory in which the emulator looks for its state."""
    state = directory / "ministack" / "state"
    state.mkdir(parents=True, exist_ok=True)
    return state


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return response.status == 200
    except (OSError, urllib.error.URLError):
        return False


def _clusters(api_server: str, certificate_authority: Path) -> dict[str, Any]:
    """The emulator's saved state of EKS. Created through its API, a cluster would be a container of the emulator's own."""
    cluster = {
        "name": CLUSTER,
        "createdAt": 0,
        "version": "1.36",
        "endpoint": api_server,
        "status": "ACTIVE",
        "certificateAuthority": {"data": base64.b64encode(certificate_authority.read_bytes()).decode()},
        "accessConfig": {"authenticationMode": "API"},
        "tags": {},
        "_auth_token": "unused, and long enough",
        "_docker_id": None,
        "_port": None,
    }
    clusters = {
        f"{ACCOUNT}\0{region}\0'{CLUSTER}'": {**cluster, "arn": f"arn:aws:eks:{region}:{ACCOUNT}:cluster/{CLUSTER}"}
        for region in (REGION, OTHER_REGION)
    }
    scoped = {"__account_region_scoped__": True, "data": clusters}
    return {"__ministack_format__": 3, "payload": {"clusters": scoped}}
