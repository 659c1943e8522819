"""The API server as a kubelet sees it: a few calls and a watch, over the credentials of a kubeconfig."""

from __future__ import annotations

import base64
import json
import ssl
import subprocess
import tempfile
from datetime import datetime, timezone

import aiohttp


def connect(kubectl: str, kubeconfig: str) -> tuple[str, ssl.SSLContext, dict]:
    """Server, TLS and headers of a kubeconfig's current context; kubectl reads it, for it knows the format."""
    view = [kubectl, "--kubeconfig", kubeconfig, "config", "view", "--raw", "--minify", "--flatten", "--output=json"]
    config = json.loads(subprocess.run(view, check=True, capture_output=True, timeout=30).stdout)
    cluster = config["clusters"][0]["cluster"]
    user = config["users"][0]["user"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    tls = ssl.create_default_context(cadata=authority)
    if "client-certificate-data" in user:
        # Python takes a client's key only from a file: it exists for the length of this call, for this user alone.
        with tempfile.NamedTemporaryFile() as pair:
            pair.write(base64.b64decode(user["client-certificate-data"]))
            pair.write(b"\n" + base64.b64decode(user["client-key-data"]))
            pair.flush()
            tls.load_cert_chain(pair.name)
    headers = {"Authorization": f"Bearer {user['token']}"} if "token" in user else {}
    return cluster["server"], tls, headers


class ApiError(Exception):
    """The API server refused: `status` is its HTTP status, the message what was asked and its reason."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


class Api:
    """The few calls that a kubelet makes."""

    def __init__(self, session: aiohttp.ClientSession, server: str):
        self._session = session
        self._server = server

    async def call(self, method: str, path: str, body: dict | None = None, kind: str = "application/json", **query):
        """One call of at most 10 s; returns the answered object, or raises ApiError or aiohttp's own errors."""
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": kind}
        timeout = aiohttp.ClientTimeout(total=10)
        request = self._session.request(
            method, self._server + path, data=data, headers=headers, params=query, timeout=timeout
        )
        async with request as response:
            answer = await response.json()
            if response.status >= 400:
                raise ApiError(response.status, f"{method} {path}: {answer.get('reason')}: {answer.get('message')}")
            return answer

    async def watch(self, path: str, **query):
        """The events of one watch, until the API server ends it (after about a minute) or the connection drops."""
        query = {**query, "watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": "60"}
        timeout = aiohttp.ClientTimeout(total=90)
        async with self._session.get(self._server + path, params=query, timeout=timeout) as response:
            if response.status >= 400:
                raise ApiError(response.status, f"watch {path}: HTTP {response.status}")
            pending = b""
            async for chunk in response.content.iter_any():
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    yield json.loads(line)

    async def data_of(self, kind: str, namespace: str, name: str) -> dict[str, bytes] | None:
        """The data of a Secret or ConfigMap; None where there is no such object."""
        try:
            found = await self.call("GET", f"/api/v1/namespaces/{namespace}/{kind}/{name}")
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        if kind == "secrets":
            return {key: base64.b64decode(value) for key, value in (found.get("data") or {}).items()}
        return {key: value.encode() for key, value in (found.get("data") or {}).items()}


def now(micro: bool = False) -> str:
    """The time as the API server writes it: seconds (Time), or microseconds (MicroTime)."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")
