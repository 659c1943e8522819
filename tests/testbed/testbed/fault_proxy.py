"""The process of `faulty_aws.py`: microburst, with replies that are none, and a count of the calls that are under way."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from typing import Any

from aiohttp import web
from microburst.app import make_app
from microburst.core.pipeline import Microburst
from microburst.detection import parse_credential_scope

from testbed.faulty_aws import CONTROL, UNDER_WAY, VERBATIM


def main() -> None:
    parser = argparse.ArgumentParser(prog="testbed.fault_proxy")
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--port", required=True, type=int)
    arguments = parser.parse_args()
    app = make_app(Microburst(arguments.upstream, resign=False, fired_capacity=10_000))
    app.middlewares.extend([_counting(Counter()), _verbatim])
    web.run_app(app, host="127.0.0.1", port=arguments.port, access_log=None)


def _counting(under_way: Counter[str]) -> Any:
    """Counts the calls of each account until they are answered, or applied with nobody left to answer; tells the counts."""

    @web.middleware
    async def count(request: web.Request, handler: Any) -> web.StreamResponse:
        if request.path == f"{CONTROL}/{UNDER_WAY}":
            return web.json_response(under_way)
        account = parse_credential_scope(request.headers)[2] or ""
        under_way[account] += 1
        try:
            return await handler(request)
        finally:
            under_way[account] -= 1

    return count


@web.middleware
async def _verbatim(request: web.Request, handler: Any) -> web.StreamResponse:
    """Puts the text that a rule names in place of the error that microburst made of it."""
    response = await handler(request)
    if request.path.startswith(CONTROL) or not isinstance(response, web.Response):
        return response
    if not isinstance(response.body, bytes) or VERBATIM.encode() not in response.body:
        return response
    reply = json.loads(response.body)
    return web.Response(body=(reply["text"] * reply["times"]).encode(), headers={"Content-Type": reply["content_type"]})


if __name__ == "__main__":
    main()
