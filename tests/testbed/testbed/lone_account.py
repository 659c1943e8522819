"""An AWS account with nothing in it but changeover's table and keys: what befalls it is nobody else's."""

from __future__ import annotations

import hashlib
import json
import secrets
import threading
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from boto3.dynamodb.types import TypeDeserializer

from testbed import tables
from testbed.testbed import Testbed

RECORDS = "changeover"
PUBLISHED = "my-service-config"
# boto3 reads its models into a session that all clients share, one at a time.
_making_clients = threading.Lock()


class LoneAccount:
    """A new account of the emulator, of a number that nobody else has."""

    def __init__(self, testbed: Testbed) -> None:
        self.testbed = testbed
        self.number = f"7{secrets.randbelow(10**11):011}"
        account = replace(testbed.aws, access_key_id=self.number, secret_access_key="unchecked")
        with _making_clients:
            self.dynamodb, self.ssm, self._kms = (account.client(name) for name in ("dynamodb", "ssm", "kms"))
            records = tables.like_the_deployed(testbed)
        self.sealing_key, self.publication_key = (self._kms.create_key()["KeyMetadata"]["Arn"] for _ in range(2))
        self.dynamodb.create_table(TableName=RECORDS, **records)
        tables.create_configuration(self.dynamodb, PUBLISHED)

    def environment(self, endpoint: str, **changes: str) -> dict[str, str]:
        """What a function has that works in this account. `changes` replace or add variables."""
        return {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_REGION": self.testbed.aws.region,
            "AWS_ACCESS_KEY_ID": self.number,
            "AWS_SECRET_ACCESS_KEY": "unchecked",
            "AWS_LAMBDA_FUNCTION_NAME": "by-hand",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "CHANGEOVER_TABLE": RECORDS,
            "CHANGEOVER_SPECS": self.testbed.specs,
            "CHANGEOVER_KEY": self.sealing_key,
            "CHANGEOVER_PUBLICATION_KEY": self.publication_key,
            "CHANGEOVER_LOG": "info,changeover=debug",
            # Nobody is called over TLS, and reading all that the system trusts takes the development build seconds.
            "SSL_CERT_FILE": str(self.testbed.certificate_authority),
            **changes,
        }


class LoneToken:
    """A token of that account. Both of its views are published to Parameter Store and to DynamoDB, and nobody restarts.

    One verifier reads plain tokens, so that values have to be opened.
    """

    def __init__(self, account: LoneAccount, name: str, parameters: Any = None) -> None:
        """`parameters` is the client of another Parameter Store than the account's."""
        self.account = account
        self.name = name
        self.parameters = parameters or account.ssm
        self.accepted, self.presented = f"/coilysiren/{name}/accepted", f"/coilysiren/{name}/token"

    def spec(self) -> dict[str, Any]:
        def item(view: str) -> dict[str, Any]:
            return {"dynamodb": {"table": PUBLISHED, "key": {"id": f"{self.name}-{view}"}}}

        return {
            "token": {"bytes": 32, "prefix": "lt_"},
            "source": "generated",
            # The shortest there is.
            "overlap": "5s",
            "verifiers": {"publish": [{"ssm": self.accepted}, {**item("accepted"), "as": "plain"}], "within": "0s"},
            "presenters": {"publish": [{"ssm": self.presented}, item("token")], "within": "0s"},
        }

    def put_spec(self) -> None:
        name = f"{self.account.testbed.specs}/{self.name}"
        self.parameters.put_parameter(Name=name, Type="String", Value=json.dumps(self.spec()))

    def standing(self) -> Standing:
        """The record and what is published, read with nobody at it."""
        ours = [_plain(item) for item in self._items()]
        (record,) = [item for item in ours if item["sk"] == "record"]
        keys = [{"id": {"S": f"{self.name}-{view}"}} for view in ("accepted", "token")]
        wanted = {PUBLISHED: {"Keys": keys, "ConsistentRead": True}}
        published = self.account.dynamodb.batch_get_item(RequestItems=wanted)["Responses"][PUBLISHED]
        by_name = {item["id"]: item for item in map(_plain, published)}
        parameters = self.parameters.get_parameters(Names=[self.accepted, self.presented], WithDecryption=True)["Parameters"]
        values = {each["Name"]: each["Value"] for each in parameters}
        return Standing(
            record["record"],
            audit={int(item["version"]): item for item in ours if item["sk"].startswith("rotation#")},
            due_at=_time(record["due_at"]) if "due_at" in record else None,
            accepted=[json.loads(values[self.accepted])["accepted"], by_name[f"{self.name}-accepted"]["accepted"]],
            presented=[values[self.presented], by_name[f"{self.name}-token"]["token"]],
        )

    def history(self) -> list[dict[str, Any]]:
        """Every version of the presented parameter that there ever was: `Value` and `Labels`, oldest first."""
        return self.parameters.get_parameter_history(Name=self.presented, WithDecryption=True)["Parameters"]

    def let_back_off_pass(self) -> None:
        """What failed is due again in a minute: makes it due now."""
        tables.make_due(self.account.dynamodb, RECORDS, self.name)

    def _items(self) -> list[dict[str, Any]]:
        """The record, the keys of its triggers, and what is kept for ever of each version."""
        return self.account.dynamodb.query(
            TableName=RECORDS,
            ConsistentRead=True,
            KeyConditionExpression="pk = :pk",
            ExpressionAttributeValues={":pk": self._record_key()["pk"]},
        )["Items"]

    def _record_key(self) -> dict[str, dict[str, str]]:
        return {"pk": {"S": f"token#{self.name}"}, "sk": {"S": "record"}}


@dataclass(frozen=True)
class Standing:
    """A token at one moment: its record, and for each publication what it holds."""

    record: dict[str, Any] = field(repr=False)
    # What the table keeps for ever of each version.
    audit: dict[int, dict[str, Any]]
    due_at: datetime | None
    accepted: list[list[dict[str, Any]]] = field(repr=False)
    presented: list[str] = field(repr=False)

    @property
    def live(self) -> dict[int, dict[str, Any]]:
        return {int(each["version"]): each for each in self.record["versions"]}

    @property
    def owes_nothing(self) -> bool:
        """At rest until the daily comparison."""
        at_rest = self.record.get("owed") is None and self.record.get("rotation") is None
        return at_rest and self.due_at is not None and self.due_at > datetime.now(timezone.utc) + timedelta(hours=1)

    def version_of(self, value: str) -> int | None:
        """The version that has this value, if there ever was one."""
        versions = {each["sha256"]: number for number, each in (self.audit | self.live).items()}
        return versions.get(digest(value))

    def broken_promises(self) -> list[str]:
        """What is wrong with what is published: it is not what a saved record decided, or somebody is refused."""
        broken = []
        rotation = self.record.get("rotation")
        for value in self.presented:
            version = self.live.get(self.version_of(value) or 0)
            if version is None:
                broken.append("a value is presented that is not a live version's")
                continue
            if version["stage"] == "pending" and not (rotation and rotation["presented"]):
                broken.append(f"version {version['version']} is presented, and the record could still drop it")
            for document in self.accepted:
                if not any(accepted_digest(each) == version["sha256"] and not _has_ended(each) for each in document):
                    broken.append(f"version {version['version']} is presented, and a verifier does not accept it")
        known = {number: each["sha256"] for number, each in (self.audit | self.live).items()}
        for document in self.accepted:
            strange = [each["version"] for each in document if known.get(int(each["version"])) != accepted_digest(each)]
            broken += [f"a verifier accepts a version {number} that no record decided" for number in strange]
        return broken


def digest(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()


def accepted_digest(entry: dict[str, Any]) -> str:
    """Of an entry of an accepted document, in either of its forms."""
    return entry["sha256"] if "sha256" in entry else digest(entry["token"])


def _has_ended(entry: dict[str, Any]) -> bool:
    return "not_after" in entry and _time(entry["not_after"]) <= datetime.now(timezone.utc)


def _plain(item: dict[str, Any]) -> dict[str, Any]:
    return {name: TypeDeserializer().deserialize(value) for name, value in item.items()}


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
