"""A parameter keeps a hundred versions: the oldest goes by itself, unless somebody's label holds it."""

import contextlib

import pytest

from testbed.lone_account import LoneAccount, LoneToken
from testbed.runtime_interface import Function
from testbed.testbed import FunctionFailed

VERSIONS_KEPT = 100


def label_on_oldest_version_is_reported_with_fix(testbed):
    with _token_with_every_version_taken(testbed, label="audited") as (token, rotate):
        with pytest.raises(FunctionFailed) as refused:
            rotate()
        assert refused.value.error_type == "PreflightFailed"
        assert token.accepted in refused.value.message and "ParameterMaxVersionLimitExceeded" in refused.value.message
        assert refused.value.message.endswith(
            "; take the label off the oldest of its hundred versions, or move it to a newer one"
        )
        assert token.standing().broken_promises() == []

        token.parameters.unlabel_parameter_version(Name=token.accepted, ParameterVersion=1, Labels=["audited"])
        answer = rotate()
        assert (answer["outcome"], answer["version"]) == ("rotated", 2)
        assert token.standing().broken_promises() == []


def rotation_discards_unlabelled_oldest_version(testbed):
    with _token_with_every_version_taken(testbed) as (token, rotate):
        answer = rotate()
        assert (answer["outcome"], answer["version"]) == ("rotated", 2)
        assert token.standing().broken_promises() == []
        # Written at expand and at overlap.
        with pytest.raises(token.parameters.exceptions.ParameterVersionNotFound):
            token.parameters.get_parameter(Name=f"{token.accepted}:2")


@contextlib.contextmanager
def _token_with_every_version_taken(testbed, label: str | None = None):
    """A published token, and how to rotate it. The verifiers' parameter has all the versions that it can have."""
    account = LoneAccount(testbed)
    # Only this emulator knows the limit.
    parameters = testbed.boto3("ssm", endpoint_url=testbed.moto)
    token = LoneToken(account, f"limit-{account.number}", parameters)
    token.put_spec()
    environment = account.environment(testbed.aws.endpoint, AWS_ENDPOINT_URL_SSM=testbed.moto)
    with Function(testbed.rotator, environment, testbed.logs / "parameter-version-limit.log") as function:
        assert function.invoke({"action": "publish", "token": token.name})["outcome"] == "published"
        if label:
            parameters.label_parameter_version(Name=token.accepted, ParameterVersion=1, Labels=[label])
        document = parameters.get_parameter(Name=token.accepted, WithDecryption=True)["Parameter"]["Value"]
        for _ in range(VERSIONS_KEPT - 1):
            parameters.put_parameter(Name=token.accepted, Type="SecureString", Value=document, Overwrite=True)
        yield token, lambda: function.invoke({"action": "rotate", "token": token.name, "key": "the trigger"})
