"""What both applications of the testbed do alike: start slowly, say when they are ready, drain when told to end."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys

from aiohttp import web


class Service:
    """The process of one pod, from its settings (environment variables):

    PORT            where it listens on 127.0.0.1; given by the process node
    START_SECONDS   how long it needs before it can serve (default 0)
    DRAIN_SECONDS   how long it goes on with what it has begun once it is told to end (default 0)
    CRASH_IF_EXISTS a file whose existence makes it exit 1 at its start, as a broken build would
    """

    def __init__(self):
        self.draining = asyncio.Event()
        self.drain_seconds = float(os.environ.get("DRAIN_SECONDS", "0"))
        self._ready = False
        self._start_seconds = float(os.environ.get("START_SECONDS", "0"))
        self._crash_if_exists = os.environ.get("CRASH_IF_EXISTS")

    async def run(self, routes: list, work=None) -> None:
        """Serves `routes` and `GET /ready`, and runs the coroutine function `work`, until the drain is over.

        `work` is called when the service is ready and must return by itself once `draining` is set.
        """
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.draining.set)
        if self._crash_if_exists and os.path.exists(self._crash_if_exists):
            sys.exit("this build is broken: it cannot use what it was given")
        await asyncio.sleep(self._start_seconds)
        application = web.Application()
        application.add_routes([web.get("/ready", self._answer_ready), *routes])
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=5)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", int(os.environ["PORT"]), reuse_address=True).start()
        self._ready = True
        working = asyncio.create_task(work()) if work else None
        await self.draining.wait()
        # It is not ready for anything new; what was routed here a moment ago is still served.
        self._ready = False
        await asyncio.sleep(self.drain_seconds)
        if working:
            await working
        await runner.cleanup()

    async def _answer_ready(self, _request: web.Request) -> web.Response:
        return web.Response(status=200 if self._ready else 503)


class Copy:
    """A copy of something that changes elsewhere: what `value()` returns was read less than `oldest` seconds ago.

    It is read again in the background at irregular times, so that no two readers change over in step. `read` is an
    ordinary function; it runs in a thread.
    """

    def __init__(self, read, oldest: float):
        self._read = read
        self._oldest = oldest
        self._value = None
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def value(self):
        """The copy; read on the spot where it is too old by now. Raises what `read` raises."""
        if self._age() >= self._oldest:
            async with self._reading:
                if self._age() >= self._oldest:
                    await self._read_again()
        return self._value

    async def keep_fresh(self) -> None:
        """Reads again and again, for ever; a failure is left to `value()` to meet."""
        while True:
            await asyncio.sleep(self._oldest * random.uniform(0.3, 0.7))
            try:
                async with self._reading:
                    await self._read_again()
            except Exception as error:
                print(f"not read again: {type(error).__name__}", file=sys.stderr, flush=True)

    async def _read_again(self) -> None:
        # Counted from before the read: what is true at its end may already be older than that.
        began = asyncio.get_running_loop().time()
        self._value = await asyncio.to_thread(self._read)
        self._read_at = began

    def _age(self) -> float:
        return asyncio.get_running_loop().time() - self._read_at


def aws(service: str):
    """A boto3 client or resource for `service`, whose calls end within seconds."""
    # boto3 takes a while to import: an application that never re-reads does without.
    import boto3
    from botocore.config import Config

    settings = Config(connect_timeout=2, read_timeout=2, retries={"mode": "standard", "total_max_attempts": 3})
    return boto3.resource(service, config=settings) if service == "dynamodb" else boto3.client(service, config=settings)
