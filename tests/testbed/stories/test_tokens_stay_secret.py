"""After all the other stories: what must stay secret is found in nothing that was said, logged or set.

This story first goes every way that the function has, with its log at its most talkative. Then it looks for

- tokens, everywhere but where they are published to and sealed: in plain, and as they look in base64 and in lists of bytes;
- their digests, everywhere but in what verifiers read and in the table of records. A digest tells nothing of a token that
  was drawn, but one that was issued by hand and adopted could be guessed with it;
- what the function proves its identity with;
- in its own logs and answers, the debug forms of requests, answers and attributes: what they hold depends on the moment.
"""

import base64
import concurrent.futures
import contextlib
import hashlib
import json
import math
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from testbed import grants, platform, runtime_interface, subscription
from testbed.deployment import PUBLICATION_PATH
from testbed.dynamic_service import DynamicService
from testbed.follower import Follower
from testbed.runtime_interface import Function, FunctionDied
from testbed.testbed import FunctionFailed

DEBUG_FORMS = (b"SdkError", b"SdkBody", b"AttributeValue", b"ByteString", b"SensitiveString")
# What bearer tokens of EKS begin with: in them is a URL that is signed.
BEARER = b"k8s-aws-v1." + base64.b64encode(b"https://sts")[:14]


def secrets_appear_in_no_observable_output(testbed, tell):
    ways = (_change_a_service, _refuse_a_service, _hold_a_follower, _be_killed)
    with concurrent.futures.ThreadPoolExecutor(len(ways)) as executor:
        gone = [executor.submit(way, testbed) for way in ways]
    secrets = {*_published(testbed), *(secret for way in gone for secret in way.result())}
    assert len(secrets) >= 15
    in_any_form = {form for secret in secrets for form in _forms(secret)}
    digests = {hashlib.sha256(secret).hexdigest().encode() for secret in secrets}

    logs = {testbed.function_log, *testbed.logs.glob("secret-*")}
    assert len(logs) == 1 + 2 * len(ways)
    looked_for = [
        *((place, text, {BEARER, *in_any_form, *digests}) for place, text in _everything_said(testbed)),
        *((str(path), path.read_bytes(), DEBUG_FORMS) for path in logs),
        *((f"records of {table}", text, in_any_form) for table, text in _records(testbed)),
    ]
    # Told are places, never what was found there.
    found = {
        f"{place}: {_speaker(line)}"
        for place, text, forms in looked_for
        if (there := [form for form in forms if form in text])
        for line in text.splitlines()
        if any(form in line for form in there)
    }
    tell(f"{len(secrets)} secrets looked for in {len(looked_for)} places, {sum(len(each[1]) for each in looked_for)} bytes")
    assert found == set()


# The ways. Each returns what must stay secret beside the tokens that are published: what the function proves itself with.


def _change_a_service(testbed) -> list[bytes]:
    """Adopted, told of, swept, rotated twice over SSM and DynamoDB, one accepted view in plain; one version dropped."""
    with _talking(testbed, "secret-changes") as (function, secrets):
        service = DynamicService(testbed, f"secret-{uuid.uuid4().hex[:8]}")
        service.create_table(f"issued-by-hand-{uuid.uuid4().hex}")
        spec = service.spec()
        spec["verifiers"]["publish"].append({"ssm": f"{service.token_parameter}/accepted", "as": "plain"})
        service.put_spec(spec)
        ask = _asking(function, service.token)
        assert ask("preflight")["outcome"] in ("passed", "warned")
        assert ask("publish")["outcome"] == "published"
        assert ask("rotate")["outcome"] == "rotated"

        def dropped() -> list[bytes] | None:
            """The values that were sealed when the newest was dropped; nothing where the sweep came first, as each minute."""
            ask("rotate", wait="0s")
            sealed = _opened(testbed, service.token)
            with contextlib.suppress(FunctionFailed):
                return sealed if ask("drop")["outcome"] == "dropped" else None

        pending = platform.wait_until(dropped, 60, f"{service.token} has a dropped version")
        assert ask("rotate")["outcome"] == "rotated"
        assert ask("status")["outcome"] == "reported"
        assert function.invoke({"action": "sweep"})["outcome"] == "swept"
        return [*pending, *secrets]


def _refuse_a_service(testbed) -> list[bytes]:
    """Everything that can be answered with an error, at values that are read or about to be written."""
    # Enough to mint and to publish to one place, and not to the other.
    held_to = [each for each in grants.of_the_role(testbed) if each.name != ("PublishToParameters", "ssm:PutParameter")]
    with _talking(testbed, "secret-refusals", held_to) as (function, secrets):
        service = DynamicService(testbed, f"secret-{uuid.uuid4().hex[:8]}")
        service.create_table()
        ask = _asking(function, service.token)
        _refused("UnknownToken", ask, "rotate")
        _refused("BadEvent", ask, "revolve")
        service.put_spec(service.spec(overlap="never"))
        _refused("BadSpec", ask, "rotate")
        service.put_spec(service.spec())
        _refused("AccessDenied", ask, "publish")
        # With every right; then somebody's hand is in it.
        platform.wait_until(
            lambda: service.invoke("publish")["outcome"] == "published", 60, f"{service.token} is published", every=1
        )
        parameters = testbed.boto3("ssm")
        parameters.put_parameter(Name=service.token_parameter, Value=f"by-hand-{uuid.uuid4().hex}", Overwrite=True)
        _refused("PreflightFailed", ask, "rotate")
        assert ask("preflight")["outcome"] == "refused"

        torn = DynamicService(testbed, f"secret-{uuid.uuid4().hex[:8]}")
        torn.create_table()
        torn.put_spec(torn.spec())
        parameters.put_parameter(Name=torn.token_parameter, Value=f"torn\n{uuid.uuid4().hex}", Type="SecureString")
        _refused("PreflightFailed", _asking(function, torn.token), "publish")
        return secrets


def _hold_a_follower(testbed) -> list[bytes]:
    """A rotation through a cluster, and one that is held because its pods do not come up."""
    follower = Follower(testbed, f"secret-{uuid.uuid4().hex[:8]}")
    with _talking(testbed, "secret-holds") as (function, secrets), follower:
        follower.create()
        ask = _asking(function, follower.token)
        assert ask("publish")["outcome"] == "published"
        follower.wait_available("follower")
        assert ask("rotate")["outcome"] == "rotated"
        follower.apply(follower.deployment(script="exit 1"))
        assert ask("rotate")["outcome"] == "held"
        assert ask("status")["outcome"] == "reported"
        return secrets


def _be_killed(testbed) -> list[bytes]:
    """In the middle of a rotation, which another process carries on."""
    service = DynamicService(testbed, f"secret-{uuid.uuid4().hex[:8]}")
    service.create_table()
    service.put_spec(service.spec())
    with _talking(testbed, "secret-killed") as (function, secrets):
        ask = _asking(function, service.token)
        assert ask("publish")["outcome"] == "published"
        with concurrent.futures.ThreadPoolExecutor(1) as other:
            rotation = other.submit(ask, "rotate")
            platform.wait_until(lambda: service.status()["rotation"], 30, "a rotation in the middle")
            function.kill()
            assert isinstance(rotation.exception(), FunctionDied)
    assert service.rotate("after the kill")["outcome"] == "rotated"
    return secrets


@contextlib.contextmanager
def _talking(testbed, name: str, held_to: list[grants.Grant] | None = None) -> Iterator[tuple[Function, list[bytes]]]:
    """A process of the function that logs all it can, and what it proves itself with."""
    session = grants.session(testbed, held_to)
    environment = runtime_interface.environment(testbed, session, CHANGEOVER_LOG="trace")
    with Function(testbed.rotator, environment, testbed.logs / f"{name}.log") as function:
        yield function, [session.secret_key.encode(), session.token.encode()]


def _asking(function: Function, token: str) -> Callable[..., dict]:
    return lambda action, **event: function.invoke({"action": action, "token": token, **event})


def _refused(error_type: str, ask: Callable[..., dict], action: str) -> None:
    with pytest.raises(FunctionFailed) as refusal:
        ask(action)
    assert refusal.value.error_type == error_type, str(refusal.value)


# What is secret.


def _published(testbed) -> set[bytes]:
    """All that ever was the value of a parameter that tokens are published to, as far as it is a token or has one in it."""
    parameters = testbed.boto3("ssm")
    values = set()
    for page in parameters.get_paginator("get_parameters_by_path").paginate(Path=PUBLICATION_PATH, Recursive=True):
        for parameter in page["Parameters"]:
            history = parameters.get_paginator("get_parameter_history")
            for versions in history.paginate(Name=parameter["Name"], WithDecryption=True):
                for value in (each["Value"] for each in versions["Parameters"]):
                    if value.startswith("{"):
                        values |= {each["token"] for each in json.loads(value)["accepted"] if "token" in each}
                    else:
                        # Lines are looked at one by one; the part of a torn token that is not random is no secret.
                        values.add(value.split()[-1])
    return {value.encode() for value in values}


def _records(testbed) -> Iterator[tuple[str, bytes]]:
    """The tables of records of all stacks, those of stories that ran beside each other included."""
    dynamodb = testbed.boto3("dynamodb")
    for table in (name for page in dynamodb.get_paginator("list_tables").paginate() for name in page["TableNames"]):
        keys = dynamodb.describe_table(TableName=table)["Table"]["KeySchema"]
        if [each["AttributeName"] for each in keys] == ["pk", "sk"]:
            items = [item for page in dynamodb.get_paginator("scan").paginate(TableName=table) for item in page["Items"]]
            yield table, str(items).encode()


def _opened(testbed, token: str) -> list[bytes]:
    """The values that are sealed in a token's record, those that nobody has seen yet included."""
    key = {"pk": {"S": f"token#{token}"}, "sk": {"S": "record"}}
    record = testbed.boto3("dynamodb").get_item(TableName=testbed.table, Key=key)["Item"]["record"]["M"]
    keys, opened = testbed.boto3("kms"), []
    for version in (each["M"] for each in record["versions"]["L"]):
        context = {"changeover:scope": "changeover", "token": token, "version": version["version"]["N"]}
        sealed = base64.b64decode(version["sealed"]["S"])
        opened.append(keys.decrypt(CiphertextBlob=sealed, EncryptionContext=context)["Plaintext"])
    return opened


def _forms(secret: bytes) -> set[bytes]:
    """The secret as it is, as a list of bytes, and in base64 of both kinds with nothing, one or two bytes before it."""
    forms = {secret, b", ".join(b"%d" % byte for byte in secret)}
    for before in range(3):
        encoded = base64.b64encode(bytes(before) + secret)
        # Without the characters that also depend on what stands before and after.
        encoded = encoded[math.ceil(before * 8 / 6) : (before + len(secret)) * 8 // 6]
        forms |= {encoded, encoded.translate(bytes.maketrans(b"+/", b"-_"))}
    return forms


# What is said.


def _everything_said(testbed) -> Iterator[tuple[str, bytes]]:
    """Logs, answers, requests, log groups, events, objects of the cluster that are no Secrets, descriptions, command lines."""
    for path in [*testbed.logs.rglob("*"), *testbed.directory.glob("*.json*")]:
        if path.is_file():
            yield str(path), path.read_bytes()
    logs = testbed.boto3("logs")
    for group in (group for page in logs.get_paginator("describe_log_groups").paginate() for group in page["logGroups"]):
        events = logs.get_paginator("filter_log_events").paginate(logGroupName=group["logGroupName"])
        lines = (event["message"] for page in events for event in page["events"])
        yield group["logGroupName"], "\n".join(lines).encode()
    told = subscription.everything(testbed.aws).arrived()
    assert told
    yield "events", "\n".join(map(json.dumps, told)).encode()
    kinds = set(testbed.kubectl("api-resources", "--verbs=list", "--output=name").split()) - {"secrets"}
    everything = ("get", ",".join(kinds), "--all-namespaces", "--show-managed-fields", "--output=json")
    yield "objects of the cluster", testbed.kubectl(*everything).encode()
    parameters = testbed.boto3("ssm")
    for page in parameters.get_paginator("describe_parameters").paginate():
        for each in page["Parameters"]:
            tags = parameters.list_tags_for_resource(ResourceType="Parameter", ResourceId=each["Name"])["TagList"]
            yield f"description and tags of {each['Name']}", str((each, tags)).encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            yield f"command line of {os.readlink(process / 'exe')}", (process / "cmdline").read_bytes()
        except OSError:
            continue


def _speaker(line: bytes) -> str:
    """Which part of the function logged a line; nothing where something else did."""
    with contextlib.suppress(ValueError, AttributeError):
        entry = json.loads(line)
        return f"{entry.get('level')} {entry.get('target')}"
    return "a line"
