"""What the stories take for granted: that the testbed's parts are real, and do as the real ones do."""

import base64
import hashlib
import json
import time
import uuid

import bearer
import boto3
import botocore.exceptions
import pytest

from testbed import external_secrets, tokens
from testbed.testbed import BESIDE_THE_ACCOUNT, Testbed

# The control plane


def api_server_has_pinned_version_and_is_ready(testbed: Testbed) -> None:
    version = json.loads(testbed.kubectl("version", "--output=json"))
    assert version["serverVersion"]["gitVersion"] == "v1.36.3"
    assert testbed.kubectl("get", "--raw", "/readyz") == "ok"


def node_reports_ready_condition(testbed: Testbed) -> None:
    testbed.kubectl("wait", f"node/{testbed.node}", "--for=condition=Ready", "--timeout=30s")


def audit_log_has_requests_but_no_bodies(testbed: Testbed) -> None:
    name = _unique("audited")
    testbed.kubectl("create", "secret", "generic", name, "--from-literal=token=never-to-be-logged")
    entries = [json.loads(line) for line in testbed.audit_log.read_text().splitlines()]
    created = [
        entry
        for entry in entries
        if entry["verb"] == "create" and entry["objectRef"].get("resource") == "secrets"
        if entry["objectRef"].get("name") == name
    ]
    assert [entry["user"]["username"] for entry in created] == ["administrator"]
    assert base64.b64encode(b"never-to-be-logged").decode() not in testbed.audit_log.read_text()
    assert "never-to-be-logged" not in testbed.audit_log.read_text()


# EKS


def described_cluster_has_endpoint_and_authority(testbed: Testbed) -> None:
    described = testbed.boto3("eks").describe_cluster(name=testbed.cluster)["cluster"]
    assert described["endpoint"] == testbed.api_server
    assert base64.b64decode(described["certificateAuthority"]["data"]) == testbed.certificate_authority.read_bytes()
    assert described["status"] == "ACTIVE"


@pytest.fixture(scope="module")
def token(testbed: Testbed) -> bearer.Bearer:
    """A right token of a role that has an access entry with the group of the function's role."""
    return bearer.admitted(testbed, _unique("admitted"))


def valid_token_maps_to_user_of_access_entry(testbed: Testbed, token: bearer.Bearer) -> None:
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    status, answer = bearer.asked(testbed, token, "POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", review)
    assert status == 201
    assert answer["status"]["userInfo"]["username"] == "someone:session"
    assert set(answer["status"]["userInfo"]["groups"]) == {tokens.GROUP, "system:authenticated"}


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(lambda token: token.but(cluster="another"), id="signed for another cluster"),
        pytest.param(bearer.tampered, id="a digit of the signature changed"),
        pytest.param(lambda token: "k8s-aws-v1.bm90IGEgdXJs", id="not a URL"),
        pytest.param(lambda token: "garbage", id="without the prefix"),
        pytest.param(lambda token: f"{token}=", id="padded"),
        pytest.param(lambda token: f"{token}{'A' * 4096}", id="longer than 4096 bytes"),
        pytest.param(lambda token: token.but(extra="&x-id=GetCallerIdentity"), id="a parameter that is not on the list"),
        pytest.param(lambda token: token.but(extra="&action=GetCallerIdentity"), id="a parameter twice"),
        pytest.param(lambda token: token.but(action="AssumeRole"), id="another action"),
        pytest.param(lambda token: token.but(host="sts.example.com"), id="another host"),
        pytest.param(lambda token: token.but(age=1000), id="signed more than 15 minutes ago"),
        pytest.param(lambda token: token.but(expires=901), id="meant to be valid for more than 15 minutes"),
    ],
)
def invalid_token_is_unauthorized(testbed: Testbed, token: bearer.Bearer, wrong) -> None:
    assert bearer.asked(testbed, wrong(token), "GET", "/version")[0] == 401


def role_without_access_entry_is_unauthorized(testbed: Testbed) -> None:
    _, credentials = bearer.assumed(testbed, _unique("stranger"))
    stranger = bearer.Bearer(credentials, testbed.cluster, testbed.aws.region)
    assert bearer.asked(testbed, stranger, "GET", "/version")[0] == 401


def account_credentials_are_unauthorized(testbed: Testbed) -> None:
    credentials = boto3.Session(testbed.aws.access_key_id, testbed.aws.secret_access_key).get_credentials()
    administrator = bearer.Bearer(credentials, testbed.cluster, testbed.aws.region)
    assert bearer.asked(testbed, administrator, "GET", "/version")[0] == 401


# External Secrets


def forced_refresh_syncs_new_parameter_value(testbed: Testbed) -> None:
    name = _unique("synced")
    parameters = testbed.boto3("ssm")
    external_secret = {
        "apiVersion": "external-secrets.io/v1",
        "kind": "ExternalSecret",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            # Longer than any test: only being told to refreshes it.
            "refreshInterval": "24h",
            "secretStoreRef": {"kind": "ClusterSecretStore", "name": external_secrets.STORE},
            "target": {"name": name},
            "data": [{"secretKey": "token", "remoteRef": {"key": f"/testbed/{name}"}}],
        },
    }
    parameter = {"Name": f"/testbed/{name}", "Type": "SecureString", "KeyId": testbed.publication_key}
    parameters.put_parameter(**parameter, Value="first")
    testbed.kubectl("apply", "--filename=-", stdin=json.dumps(external_secret))
    testbed.kubectl("wait", f"externalsecret/{name}", "--for=condition=Ready", "--timeout=60s", seconds=70)
    assert _secret(testbed, name) == b"first"

    parameters.put_parameter(**parameter, Value="second", Overwrite=True)
    before = json.loads(testbed.kubectl("get", f"externalsecret/{name}", "--output=json"))["status"]
    testbed.kubectl("annotate", f"externalsecret/{name}", f"force-sync={uuid.uuid4()}")
    second = base64.b64encode(b"second").decode()
    testbed.kubectl("wait", f"secret/{name}", f"--for=jsonpath={{.data.token}}={second}", "--timeout=60s", seconds=70)
    after = json.loads(testbed.kubectl("get", f"externalsecret/{name}", "--output=json"))["status"]
    assert after["syncedResourceVersion"] != before["syncedResourceVersion"]


# The account


def function_answers_status_request(testbed: Testbed) -> None:
    assert testbed.invoke({"action": "status"})["outcome"] == "reported"


def function_output_reaches_its_log(testbed: Testbed) -> None:
    before = testbed.function_log.stat().st_size
    testbed.invoke({"action": "status"})
    deadline = time.monotonic() + 30
    while testbed.function_log.stat().st_size == before:
        assert time.monotonic() < deadline


def function_has_its_role_and_table(testbed: Testbed) -> None:
    configured = testbed.boto3("lambda").get_function_configuration(FunctionName=testbed.function)
    assert configured["Role"] == testbed.role
    assert configured["Environment"]["Variables"]["CHANGEOVER_TABLE"] == testbed.table


def request_with_wrong_signature_is_refused(testbed: Testbed) -> None:
    _, credentials = bearer.assumed(testbed, _unique("forger"))
    forged = testbed.boto3(
        "ssm",
        aws_access_key_id=credentials.access_key,
        aws_secret_access_key=hashlib.sha256(b"guessed").hexdigest(),
        aws_session_token=credentials.token,
    )
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        forged.get_parameters_by_path(Path="/")
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] in (400, 403)


def call_outside_role_policies_is_denied(testbed: Testbed) -> None:
    _, credentials = bearer.assumed(testbed, _unique("powerless"))
    powerless = testbed.boto3(
        "ssm",
        aws_access_key_id=credentials.access_key,
        aws_secret_access_key=credentials.secret_key,
        aws_session_token=credentials.token,
    )
    with pytest.raises(botocore.exceptions.ClientError) as refused:
        powerless.get_parameters_by_path(Path="/")
    assert refused.value.response["Error"]["Code"] == "AccessDeniedException"


def lone_account_names_its_missing_part(testbed: Testbed) -> None:
    described = json.loads((testbed.directory / "testbed.json").read_text())
    alone = Testbed({name: value for name, value in described.items() if name not in BESIDE_THE_ACCOUNT})
    assert testbed.has_cluster and not alone.has_cluster
    assert alone.invoke({"action": "status"})["outcome"] == "reported"
    for part in BESIDE_THE_ACCOUNT:
        assert getattr(testbed, part)
        with pytest.raises(AttributeError, match=f"an AWS account alone, it has no {part}"):
            getattr(alone, part)


def moto_refuses_write_over_labelled_oldest_version(testbed: Testbed) -> None:
    parameters = testbed.boto3("ssm", endpoint_url=testbed.moto)
    name = f"/testbed/{_unique('limited')}"
    for version in range(100):
        parameters.put_parameter(Name=name, Type="String", Value=str(version), Overwrite=True)
    parameters.label_parameter_version(Name=name, ParameterVersion=1, Labels=["current"])
    with pytest.raises(parameters.exceptions.ParameterMaxVersionLimitExceeded):
        parameters.put_parameter(Name=name, Type="String", Value="100", Overwrite=True)


def _unique(stem: str) -> str:
    return f"{stem}-{uuid.uuid4().hex[:8]}"


def _secret(testbed: Testbed, name: str) -> bytes:
    encoded = testbed.kubectl("get", f"secret/{name}", "--output=jsonpath={.data.token}")
    return base64.b64decode(encoded)
