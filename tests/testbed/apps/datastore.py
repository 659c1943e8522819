"""A verifier: accepts a token iff it matches an entry of the accepted document that has not ended.

The document comes from ACCEPTED, as it was when the process started, or is read again all the time (a copy is less
than a second old) from the DynamoDB item ACCEPTED_ITEM of ACCEPTED_TABLE or from the SSM parameter ACCEPTED_PARAMETER.

    GET /data    200 {"version": 7}: the version whose token this was; 401 for every other token
    GET /ready   200 once it serves
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import os
from datetime import datetime, timezone

from aiohttp import web

from service import Copy, Service, aws

# A reader may hold its copy for a second, the way of a request included.
OLDEST_SECONDS = 0.9


async def main() -> None:
    service = Service()
    accepted = reader()
    if isinstance(accepted, Copy):
        refreshing = asyncio.create_task(accepted.keep_fresh())
        await accepted.value()

    async def data(request: web.Request) -> web.Response:
        entries = await accepted.value() if isinstance(accepted, Copy) else accepted
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        version = version_of(token, entries, datetime.now(timezone.utc))
        if version is None:
            return web.json_response({"error": "this token is not accepted"}, status=401)
        return web.json_response({"version": version, "pod": os.environ.get("POD")})

    await service.run([web.get("/data", data)])
    if isinstance(accepted, Copy):
        refreshing.cancel()


def version_of(token: str, entries: list[dict], now: datetime) -> int | None:
    """The version that `token` is at the time `now`, None where it is none. Takes the same time for every token."""
    presented = hashlib.sha256(token.encode()).hexdigest()
    found = None
    for entry in entries:
        digest = entry.get("sha256") or hashlib.sha256(entry["token"].encode()).hexdigest()
        ended = "not_after" in entry and datetime.fromisoformat(entry["not_after"]) <= now
        if hmac.compare_digest(presented, digest) and not ended:
            found = int(entry["version"])
    return found


def reader() -> Copy | list[dict]:
    """The accepted entries, or the copy of them, that the environment asks for."""
    if document := os.environ.get("ACCEPTED"):
        return json.loads(document)["accepted"]
    if table_name := os.environ.get("ACCEPTED_TABLE"):
        table, key = aws("dynamodb").Table(table_name), {"id": os.environ["ACCEPTED_ITEM"]}
        return Copy(lambda: table.get_item(Key=key)["Item"]["accepted"], OLDEST_SECONDS)
    parameters, name = aws("ssm"), os.environ["ACCEPTED_PARAMETER"]

    def read() -> list[dict]:
        parameter = parameters.get_parameter(Name=name, WithDecryption=True)["Parameter"]
        return json.loads(parameter["Value"])["accepted"]

    return Copy(read, OLDEST_SECONDS)


if __name__ == "__main__":
    asyncio.run(main())
