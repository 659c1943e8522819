"""A proxy between one function and all that it calls: counts the calls, and kills the function at the one that it is told.

    function ─► http://127.0.0.1:a ─► the emulated account
             ─► https://127.0.0.1:b ─► the API server of the cluster, which DescribeCluster tells to be at b

Requests are handed on to the byte, their Host header included: it is signed.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Self
from urllib.parse import urlsplit

from testbed.testbed import Testbed

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
LINE_END = b"\r\n"
HEAD_END = b"\r\n\r\n"
# Of a line or a head; bodies are read by their length.
LONGEST = 1 << 20


@dataclass(frozen=True)
class Cut:
    """The call at which the function is killed, counted from one: before it leaves, or when its whole reply has arrived,
    which the function never sees. Of a watch, whose reply has no end, the first of it counts as the whole."""

    call: int
    after: bool


@dataclass(frozen=True)
class Message:
    """A request or a reply: its first line and headers, and its body as it was framed."""

    head: bytes
    body: bytes = field(repr=False)

    def header(self, name: str) -> str:
        for line in self.head.split(LINE_END)[1:]:
            found, _, value = line.decode("latin-1").partition(":")
            if found.lower() == name.lower():
                return value.strip()
        return ""

    @property
    def target(self) -> str:
        return self.head.split(b" ", 2)[1].decode("latin-1")

    @property
    def is_watch(self) -> bool:
        return "watch=" in self.target

    @property
    def name(self) -> str:
        """The AWS action, or method and path; no call's parameters, which may be secret."""
        action = self.header("X-Amz-Target")
        return action or f"{self.head.split(b' ', 1)[0].decode()} {urlsplit(self.target).path}"

    def __bytes__(self) -> bytes:
        return self.head + self.body


class CuttingProxy:
    """Serves one function. `calls` names what it called, in the order in which the calls arrived."""

    def __init__(self, testbed: Testbed, loop: asyncio.AbstractEventLoop) -> None:
        self.calls: list[str] = []
        self.has_cut = False
        self._testbed = testbed
        self._loop = loop
        self._cut: Cut | None = None
        self._kill: Callable[[], None] = lambda: None
        self._connections: set[asyncio.Task[None] | None] = set()
        self._servers: list[asyncio.Server] = asyncio.run_coroutine_threadsafe(self._listen(), loop).result()
        aws, cluster = (server.sockets[0].getsockname()[1] for server in self._servers)
        self.endpoint = f"http://127.0.0.1:{aws}"
        self._api_server = f"https://127.0.0.1:{cluster}"

    def cut(self, at: Cut, kill: Callable[[], None]) -> None:
        """Has the function killed at that call; `kill` returns when it is gone."""
        self._cut, self._kill = at, kill

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()

    async def _listen(self) -> list[asyncio.Server]:
        authority = self._testbed.certificate_authority
        serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        serving.load_cert_chain(authority.with_name("serving.crt"), authority.with_name("serving.key"))
        trusting = ssl.create_default_context(cafile=str(authority))
        account, api_server = urlsplit(self._testbed.aws.endpoint).port, urlsplit(self._testbed.api_server).port
        to_account, to_cluster = partial(self._serve, account, None), partial(self._serve, api_server, trusting)
        # Ports of the kernel's choice: one that the node chose too, for a pod that is starting, would be called by its probe.
        return [
            await asyncio.start_server(to_account, "127.0.0.1", 0, limit=LONGEST),
            await asyncio.start_server(to_cluster, "127.0.0.1", 0, limit=LONGEST, ssl=serving),
        ]

    async def _close(self) -> None:
        for server in self._servers:
            server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(
        self, upstream: int, tls: ssl.SSLContext | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One connection of the function: its calls one after the other."""
        self._connections.add(asyncio.current_task())
        onward: Connection | None = None
        # The function closes connections as it likes, and dies.
        with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            try:
                while True:
                    request = await _message(reader)
                    cut = self._counted(request)
                    if cut and not cut.after:
                        await self._kill_function()
                    # The emulator closes connections that it finds idle: one that was kept could just be going.
                    if onward is None or tls is None:
                        _close(onward)
                        onward = await asyncio.open_connection("127.0.0.1", upstream, ssl=tls, limit=LONGEST)
                    await self._answer(request, cut, onward, (reader, writer))
            finally:
                _close(onward)
                writer.close()
                self._connections.discard(asyncio.current_task())

    def _counted(self, request: Message) -> Cut | None:
        """Counts a call; the cut, if it is to be made at this one."""
        if self.has_cut:
            raise ConnectionResetError("the function is dead")
        self.calls.append(request.name)
        return self._cut if self._cut and self._cut.call == len(self.calls) else None

    async def _answer(self, request: Message, cut: Cut | None, onward: Connection, back: Connection) -> None:
        replies, requests = onward
        requests.write(bytes(request))
        if request.is_watch:
            if cut:
                await replies.readexactly(1)
                await self._kill_function()
            return await _relay(replies, back)
        reply = await _message(replies)
        if cut:
            await self._kill_function()
        # The two addresses are of the same length: ports have five digits here.
        back[1].write(bytes(reply).replace(self._testbed.api_server.encode(), self._api_server.encode()))
        await back[1].drain()

    async def _kill_function(self) -> None:
        self.has_cut = True
        await asyncio.to_thread(self._kill)
        raise ConnectionResetError("the function was killed at this call")


async def _message(reader: asyncio.StreamReader) -> Message:
    """The next whole message."""
    head = Message(await reader.readuntil(HEAD_END), b"")
    if "chunked" in head.header("Transfer-Encoding"):
        chunks = []
        while not chunks or int(chunks[-1].split(LINE_END, 1)[0].split(b";")[0], 16):
            size = await reader.readuntil(LINE_END)
            chunks.append(size + await reader.readexactly(int(size.split(b";")[0], 16) + len(LINE_END)))
        return Message(head.head, b"".join(chunks))
    return Message(head.head, await reader.readexactly(int(head.header("Content-Length") or 0)))


def _close(connection: Connection | None) -> None:
    if connection:
        connection[1].close()


async def _relay(replies: asyncio.StreamReader, back: Connection) -> None:
    """Hands on a reply as it comes, until either end closes the connection: nothing else can be said on it after a watch."""
    reader, writer = back

    async def answer() -> None:
        while part := await replies.read(1 << 16):
            writer.write(part)
            await writer.drain()

    ends = [asyncio.create_task(answer()), asyncio.create_task(reader.read(1))]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for end in ends:
            end.cancel()
        await asyncio.gather(*ends, return_exceptions=True)
    raise ConnectionResetError("the watch has ended")


class Background:
    """An event loop in a thread of its own, for proxies."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)

    def __enter__(self) -> asyncio.AbstractEventLoop:
        self._thread.start()
        return self.loop

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()
