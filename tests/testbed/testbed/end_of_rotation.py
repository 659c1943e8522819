"""What a rotation of a light token came to, told so that rotations that came to the same tell the same."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
from datetime import datetime, timezone
from typing import Any
from urllib.parse import urlsplit

from testbed.api import connect
from testbed.light_platform import LightPlatform
from testbed.testbed import Testbed


class Observed:
    """A token at rest, before a rotation. `end()` tells what has become of it, and holds no token."""

    def __init__(self, platform: LightPlatform, cluster: "Cluster") -> None:
        self._platform = platform
        self._cluster = cluster
        (current,) = platform.status()["versions"]
        self.version: int = current["version"]
        self._presented = self._parameter(platform.token_parameter)
        self._generations = self._of_deployments("generation")

    def end(self) -> dict[str, Any]:
        """Record, publications and cluster: numbers of versions as their distance from what it was, values and revisions by
        what else is equal to them."""
        platform = self._platform
        standing = platform.status()
        presented = self._parameter(platform.token_parameter)
        document = self._parameter(platform.accepted_parameter)
        token, accepted = self._item(platform.token_item), self._item(platform.accepted_item)
        names = {self._presented: "former", presented: "presented", _digest(presented): "digest of presented"}
        stamps = {side: stamps.pop() if len(stamps) == 1 else ("", 0) for side, stamps in self._stamps().items()}

        def entries(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
            known = ({"version": int(each["version"]) - self.version, "sha256": names.get(each["sha256"])} for each in found)
            return [each | ours for each, ours in zip(found, known, strict=True)]

        return {
            "owed": [standing[each] for each in ("rotation", "leg", "step", "held", "drift")],
            "a call may still land": (standing["unanswered_until"] or "") > datetime.now(timezone.utc).isoformat(),
            "versions": [(each["version"] - self.version, each["stage"], each["not_after"]) for each in standing["versions"]],
            "audit": self._audit(),
            "accepted": [entries(json.loads(document)["accepted"]), entries(accepted["accepted"])],
            "presented": [names[presented], names.get(token["token"]), int(token["token_version"]) - self.version],
            "labels": [names.get(self._parameter(f"{platform.token_parameter}:{label}")) for label in ("current", "previous")],
            "others' attributes": sorted(token.keys() | accepted.keys()),
            "values ever presented": len(self._history()) - self.version,
            "secrets": [
                self._secret(platform.verifier, "accepted") == document,
                self._secret(platform.presenter, "token") == presented,
            ],
            # The view that presenters are on, the one that verifiers were restarted for, and the one without the former token.
            "revisions": _ranks(
                _fence(token, "token"), stamps["presenter"], stamps["verifier"], _fence(accepted, "accepted")
            ),
            "rollouts": [
                now - before for now, before in zip(self._of_deployments("generation"), self._generations, strict=True)
            ],
        }

    def _parameter(self, name: str) -> str:
        return self._platform.parameters.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"]

    def _history(self) -> set[str]:
        pages = self._platform.parameters.get_paginator("get_parameter_history")
        history = pages.paginate(Name=self._platform.token_parameter, WithDecryption=True)
        return {each["Value"] for page in history for each in page["Parameters"]}

    def _item(self, name: str) -> dict[str, Any]:
        found = self._platform.tables.get_item(TableName=self._platform.published, Key={"id": {"S": name}}, ConsistentRead=True)
        return _plain({"M": found["Item"]})

    def _audit(self) -> list[tuple[int, str]]:
        """Versions that the audit knows beyond the former one, with their stages."""
        found = self._platform.tables.query(
            TableName=self._platform.records,
            KeyConditionExpression="pk = :token AND begins_with(sk, :rotation)",
            ExpressionAttributeValues={":token": {"S": f"token#{self._platform.token}"}, ":rotation": {"S": "rotation#"}},
        )
        items = [_plain({"M": item}) for item in found["Items"]]
        return [(int(item["version"]) - self.version, item["stage"]) for item in items if int(item["version"]) >= self.version]

    def _secret(self, name: str, key: str) -> str:
        secret = self._cluster.get(f"/api/v1/namespaces/{self._platform.name}/secrets/{name}")
        return base64.b64decode(secret["data"][key]).decode()

    def _of_deployments(self, field: str) -> list[int]:
        path = f"/apis/apps/v1/namespaces/{self._platform.name}/deployments"
        names = (self._platform.verifier, self._platform.presenter)
        return [self._cluster.get(f"{path}/{name}")["metadata"][field] for name in names]

    def _stamps(self) -> dict[str, set[tuple[str, int]]]:
        """By side, the stamps that its pods bear, but for pods whose containers have ended and that the node has yet to delete."""
        stamps: dict[str, set[tuple[str, int]]] = {}
        for side, name in (("verifier", self._platform.verifier), ("presenter", self._platform.presenter)):
            pods = self._cluster.get(f"/api/v1/namespaces/{self._platform.name}/pods?labelSelector=app%3D{name}")["items"]
            stamp = f"{side}.changeover.dev/{self._platform.token}"
            alive = [pod["metadata"] for pod in pods if pod["status"].get("phase") not in ("Succeeded", "Failed")]
            stamps[side] = {fence_of(metadata.get("annotations", {}).get(stamp, "0")) for metadata in alive}
        return stamps


def fence_of(stamp: str) -> tuple[str, int]:
    """The life and the revision of a stamp, which compare in this order. Texts of lives compare as lives do."""
    life, _, revision = stamp.rpartition(".")
    return life, int(revision)


def _fence(item: dict[str, Any], view: str) -> tuple[str, int]:
    return item.get(f"{view}_life", ""), int(item[f"{view}_revision"])


class Cluster:
    """Reads objects of the cluster as its administrator, on one connection. One thread's."""

    def __init__(self, testbed: Testbed) -> None:
        server, tls, _ = connect(str(testbed.kubectl), str(testbed.kubeconfig))
        self._connection = http.client.HTTPSConnection(urlsplit(server).netloc, timeout=10, context=tls)

    def get(self, path: str) -> dict[str, Any]:
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        found = json.load(answer)
        if answer.status != 200:
            raise LookupError(f"{path}: {found}")
        return found


def _plain(value: dict[str, Any]) -> Any:
    """A DynamoDB attribute as JSON has it, numbers as text."""
    ((kind, content),) = value.items()
    match kind:
        case "M":
            return {name: _plain(each) for name, each in content.items()}
        case "L":
            return [_plain(each) for each in content]
    return content


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _ranks(*fences: tuple[str, int]) -> list[int]:
    """Which are equal, and which greater."""
    return [sorted(set(fences)).index(fence) for fence in fences]
