"""Bearer tokens for EKS, as `aws eks get-token` makes them, and with one thing wrong at a time."""

import base64
import datetime
import http.client
import json
import ssl
import urllib.parse
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from testbed import tokens
from testbed.testbed import Testbed


@dataclass(frozen=True)
class Bearer:
    """What a token is made of; `replace` makes a wrong one."""

    credentials: Credentials
    cluster: str
    region: str
    action: str = "GetCallerIdentity"
    host: str = ""
    age: int = 0
    expires: int = 60
    extra: str = ""

    def __str__(self) -> str:
        host = self.host or f"sts.{self.region}.amazonaws.com"
        request = AWSRequest(
            "GET",
            f"https://{host}/?Action={self.action}&Version=2011-06-15{self.extra}",
            headers={"x-k8s-aws-id": self.cluster},
        )
        signed_at = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=self.age)
        with mock.patch.object(botocore.auth, "get_current_datetime", lambda *_, **__: signed_at):
            botocore.auth.SigV4QueryAuth(self.credentials, "sts", self.region, self.expires).add_auth(request)
        return f"k8s-aws-v1.{base64.urlsafe_b64encode(request.url.encode()).decode().rstrip('=')}"

    def but(self, **changes: Any) -> "Bearer":
        """The same token with something else in it."""
        return replace(self, **changes)


def tampered(token: Bearer) -> str:
    """The token with one digit of its signature changed."""
    whole = str(token)
    url = base64.urlsafe_b64decode(whole.removeprefix("k8s-aws-v1.") + "==").decode()
    last = "0" if url[-1] != "0" else "1"
    return f"k8s-aws-v1.{base64.urlsafe_b64encode((url[:-1] + last).encode()).decode().rstrip('=')}"


def assumed(testbed: Testbed, name: str) -> tuple[str, Credentials]:
    """A new role's ARN, and credentials of a session of it called `session`. The role itself may do nothing."""
    identities = testbed.boto3("iam")
    trust = {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"AWS": "000000000000"}, "Action": "sts:AssumeRole"}],
    }
    role = identities.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(trust))["Role"]["Arn"]
    session = testbed.boto3("sts").assume_role(RoleArn=role, RoleSessionName="session")["Credentials"]
    return role, Credentials(session["AccessKeyId"], session["SecretAccessKey"], session["SessionToken"])


def admitted(testbed: Testbed, name: str) -> Bearer:
    """A right token of a new role that has an access entry with the group of the function's role: of `someone:session`."""
    role, credentials = assumed(testbed, name)
    tokens.admit(testbed.access_entries, role, "someone:{{SessionName}}", tokens.GROUP)
    return Bearer(credentials, testbed.cluster, testbed.aws.region)


def asked(
    testbed: Testbed, token: object, method: str, path: str, body: object = None, kind: str = "application/json"
) -> tuple[int, dict]:
    """Status and answer of the API server to whoever the bearer token says."""
    server = urllib.parse.urlsplit(testbed.api_server)
    connection = http.client.HTTPSConnection(
        server.netloc,
        timeout=30,
        context=ssl.create_default_context(cafile=str(testbed.certificate_authority)),
    )
    headers = {"Authorization": f"Bearer {token}", "Content-Type": kind}
    connection.request(method, path, json.dumps(body) if body else None, headers)
    response = connection.getresponse()
    answer = json.loads(response.read() or "{}")
    connection.close()
    return response.status, answer
