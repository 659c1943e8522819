"""A presenter: sends requests to the datastore, each with its token, and writes down how each one went.

The token comes from TOKEN, as it was when the process started, or is read again all the time (a copy is less than a
second old) from the item `service_token` of the DynamoDB table TOKEN_TABLE or from the SSM parameter TOKEN_PARAMETER.

RATE            requests a second (default 50)
ENDPOINTS       the process node's list of pods, which stands for the Service's endpoints
VERIFIERS       the value of the label `app` of the pods to send to, in the own namespace (default datastore)
REQUESTS        the file to which one line a request is appended: a JSON object, and never a token in it
NAMESPACE, POD  its own
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time

import aiohttp

from service import Copy, Service, aws
from service_token import ServiceTokenProvider

OLDEST_SECONDS = 0.9

# A request is made once, at whatever number of pods that have gone it takes; it is not repeated after an answer.
ATTEMPTS = 5
# A late answer is no failed one.
REQUEST_SECONDS = 30


async def main() -> None:
    service = Service()
    token = reader()
    if isinstance(token, Copy):
        refreshing = asyncio.create_task(token.keep_fresh())
        await token.value()
    presenter = Presenter(service, token)
    await service.run([], presenter.send_until_drained)
    if isinstance(token, Copy):
        refreshing.cancel()


class Presenter:
    """The stream of requests of one pod."""

    def __init__(self, service: Service, token: Copy | str):
        self._service = service
        self._token = token
        self._interval = 1 / float(os.environ.get("RATE", "50"))
        self._pod = os.environ["POD"]
        self._endpoints = Endpoints(
            os.environ["ENDPOINTS"], os.environ["NAMESPACE"], os.environ.get("VERIFIERS", "datastore")
        )
        self._requests = os.open(os.environ["REQUESTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    async def send_until_drained(self) -> None:
        """Sends at the given rate; once draining, less and less: work that was begun has requests left to make.

        Begins when there is somebody to send to: that the datastore is not there yet is no failed authentication.
        """
        loop = asyncio.get_running_loop()
        while self._endpoints.pick(set()) is None and not self._service.draining.is_set():
            await asyncio.sleep(0.1)
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as in_flight:
            due = loop.time()
            drained = None
            while True:
                interval = self._interval
                if self._service.draining.is_set():
                    drained = drained or loop.time() + self._service.drain_seconds
                    left = drained - loop.time()
                    if left <= 0:
                        return
                    interval *= self._service.drain_seconds / left
                # Those who cannot keep up with the clock do not catch up in a burst.
                due = max(due + interval * random.uniform(0.8, 1.2), loop.time() - 0.5)
                await asyncio.sleep(due - loop.time())
                in_flight.create_task(self._send(session))

    async def _send(self, session: aiohttp.ClientSession) -> None:
        outcome = {"at": round(time.time(), 3), "presenter": self._pod, "status": 0}
        try:
            token = await self._token.value() if isinstance(self._token, Copy) else self._token
            outcome |= await self._ask(session, token)
        except Exception as error:  # Every way to fail is one failed request, told by its kind alone.
            outcome["error"] = type(error).__name__
        os.write(self._requests, json.dumps(outcome).encode() + b"\n")

    async def _ask(self, session: aiohttp.ClientSession, token: str) -> dict:
        """One request. A pod that is gone before it answered is passed over; every answer is final."""
        tried: set[str] = set()
        for attempt in range(1, ATTEMPTS + 1):
            address = self._endpoints.pick(tried)
            if address is None:
                return {"error": "NoEndpoints", "attempts": attempt}
            tried.add(address)
            try:
                headers = {"Authorization": f"Bearer {token}"}
                async with session.get(f"http://{address}/data", headers=headers) as response:
                    answer = await response.json()
                    return {
                        "status": response.status,
                        "version": answer.get("version"),
                        "verifier": answer.get("pod"),
                        "attempts": attempt,
                    }
            except (aiohttp.ClientConnectorError, aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                self._endpoints.read_again()
        return {"error": "PodsGone", "attempts": ATTEMPTS}


class Endpoints:
    """The pods behind the datastore's Service, known with the delay that kube-proxy has too."""

    def __init__(self, path: str, namespace: str, application: str):
        self._path = path
        self._namespace = namespace
        self._application = application
        self._ready: list[str] = []
        self._read_again_at = 0.0

    def pick(self, tried: set[str]) -> str | None:
        """A ready pod, preferably one that was not tried; None where there is none at all."""
        if time.monotonic() >= self._read_again_at:
            self.read_again()
        fresh = [address for address in self._ready if address not in tried]
        return random.choice(fresh or self._ready or [None])

    def read_again(self) -> None:
        with open(self._path) as file:
            endpoints = json.load(file)
        self._ready = [
            each["address"]
            for each in endpoints
            if each["ready"]
            and each["namespace"] == self._namespace
            and each["labels"].get("app") == self._application
        ]
        self._read_again_at = time.monotonic() + random.uniform(0.2, 0.6)


def reader() -> Copy | str:
    """The token, or the copy of it, that the environment asks for."""
    if token := os.environ.get("TOKEN"):
        return token
    if table_name := os.environ.get("TOKEN_TABLE"):
        return Copy(ServiceTokenProvider(aws("dynamodb").Table(table_name)).get_token, OLDEST_SECONDS)
    parameters, name = aws("ssm"), os.environ["TOKEN_PARAMETER"]
    return Copy(lambda: parameters.get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"], OLDEST_SECONDS)


if __name__ == "__main__":
    asyncio.run(main())
