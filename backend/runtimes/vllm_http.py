"""A client of equal vLLM servers: which of them is asked, and what it has to prove first."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from backend.errors import RuntimeFault
from backend.runtimes.addresses import Address
from backend.runtimes.vllm_exchange import CONNECT_S, Exchange, Unreachable

if TYPE_CHECKING:
    from multidict import CIMultiDictProxy

T = TypeVar("T")
DOWN_S = 10.0  # how long a server that refused a connection is asked last
SILENCE_S = 15.0  # after which a server is asked what it is known to answer, before anything that counts


class Row(BaseModel):
    """Where one prompt's states lie in the body of an answer."""

    index: int
    embed_dtype: str
    endianness: str
    start: int
    end: int
    shape: tuple[int, ...]


class _Metadata(BaseModel):
    data: list[Row]


@dataclass(frozen=True, slots=True)
class Answer:
    """Binary states and the server's own account of them."""

    body: bytes
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class KnownAnswer:
    """A request whose answer is known: how a server shows that it still is what it was."""

    payload: dict[str, object]
    check: Callable[[Answer], None]  # raises `RuntimeFault` where the answer is another one


@dataclass(slots=True)
class _Server:
    """One of the equal servers; touched from the event loop alone."""

    address: Address
    under_way: int = 0
    asked: int = 0  # in all; decides between servers that are equally busy
    down_until: float = 0.0  # monotonic; a server that refused a connection is asked last for a while
    heard: float = field(default_factory=time.monotonic)  # its last good answer
    doubted: bool = False  # it failed since then
    proving: asyncio.Lock = field(default_factory=asyncio.Lock)


class Client:
    """Speaks to equal servers from an event loop on a thread of its own; safe to share between threads.

    A request goes to the server with the fewest requests under way, and once more to the next one where the first cannot
    be reached; answers that fail are never asked for twice. After a failure, or `SILENCE_S` without an answer, a server
    has to give its known answer first: it may have been started again with something else.

    Args:
        name: of the runtime, for messages.
        addresses: of equal servers.
        deadline_s: most that one request may take in all.
        known: what each server answers; None where somebody else watches them.
    """

    def __init__(
        self, name: str, addresses: Sequence[Address], *, deadline_s: float, known: KnownAnswer | None = None
    ) -> None:
        self._name = name
        self._deadline_s = deadline_s
        self._known = known
        self._servers = [_Server(address) for address in addresses]
        self.shown_url = ", ".join(address.shown for address in addresses)
        self._closing, self._closed = threading.Lock(), False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"http-{name}", daemon=True)
        self._thread.start()
        self._http = self._wait(Exchange.open(name))

    def get_json(self, path: str, *, deadline_s: float = CONNECT_S) -> dict[str, Any]:
        """Fetch a JSON object; raises as `pool` does."""
        body = self._wait(self._exchange("GET", path, None, deadline_s))[0]
        try:
            content = json.loads(body)
        except ValueError as error:
            raise self._http.garbage(body) from error
        if not isinstance(content, dict):
            raise self._http.garbage(body)
        return content

    def pool(self, payloads: Sequence[dict[str, object]], *, deadline_s: float | None = None) -> list[Answer]:
        """Send requests to ``/pooling``, a few at once, and return their answers in order.

        Raises:
            PrerequisiteError: nobody listens.
            RuntimeFault: refused, failed, too slow, broken off, or not what vLLM answers.
        """
        return self._wait(self._pool(payloads, deadline_s or self._deadline_s))

    def doubt(self) -> None:
        """Ask every server for its known answer before the next request: what one answered made no sense."""
        for server in self._servers:
            server.doubted = True

    def close(self) -> None:
        """End the requests under way, which fail, and close connections."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            ending = asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        ending.result(timeout=CONNECT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=CONNECT_S)
        self._loop.close()

    async def _end(self) -> None:
        # a loop that stops with requests in it would leave their callers waiting for ever
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._http.close()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        with self._closing:  # nothing may enter a loop that is about to stop
            if self._closed:
                work.close()
                raise self._gone()
            waiting = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return waiting.result()
        except CancelledError as error:
            raise self._gone() from error

    def _gone(self) -> RuntimeFault:
        return RuntimeFault(f"{self._name}: the runtime was closed", remedy="Load it again.")

    async def _pool(self, payloads: Sequence[dict[str, object]], deadline_s: float) -> list[Answer]:
        gate = asyncio.Semaphore(4)  # keeps servers busy without holding every answer's states twice

        async def one(payload: dict[str, object]) -> Answer:
            async with gate:
                body, headers = await self._exchange("POST", "/pooling", payload, deadline_s)
            return self._answer(body, headers)

        tasks = [asyncio.ensure_future(one(payload)) for payload in payloads]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    def _answer(self, body: bytes, headers: CIMultiDictProxy[str]) -> Answer:
        try:
            rows = _Metadata.model_validate_json(headers["metadata"]).data
        except (KeyError, ValidationError) as error:
            raise self._http.garbage(body) from error
        return Answer(body, tuple(rows))

    async def _prove(self, server: _Server, deadline_s: float) -> None:
        """Compare a server's known answer before a request to it, where it was silent or failed."""
        async with server.proving:
            if self._known is None or not (server.doubted or time.monotonic() - server.heard > SILENCE_S):
                return
            server.doubted = True  # until it has answered rightly
            self._known.check(self._answer(*await self._ask(server, "POST", "/pooling", self._known.payload, deadline_s)))
            server.doubted = False

    async def _exchange(
        self, method: str, path: str, payload: dict[str, object] | None, deadline_s: float
    ) -> tuple[bytes, CIMultiDictProxy[str]]:
        """Ask the least busy server, and the next one where nobody listens."""
        now = time.monotonic()
        in_turn = sorted(self._servers, key=lambda s: (s.down_until > now, s.under_way, s.asked))
        for server in in_turn[:-1]:
            with suppress(Unreachable):
                return await self._ask_trusted(server, method, path, payload, deadline_s)
        return await self._ask_trusted(in_turn[-1], method, path, payload, deadline_s)

    async def _ask_trusted(
        self, server: _Server, method: str, path: str, payload: dict[str, object] | None, deadline_s: float
    ) -> tuple[bytes, CIMultiDictProxy[str]]:
        try:
            if payload is not None:
                await self._prove(server, deadline_s)
            return await self._ask(server, method, path, payload, deadline_s)
        except Unreachable:
            server.down_until, server.doubted = time.monotonic() + DOWN_S, True
            raise
        except RuntimeFault:
            server.doubted = True
            raise

    async def _ask(
        self, server: _Server, method: str, path: str, payload: dict[str, object] | None, deadline_s: float
    ) -> tuple[bytes, CIMultiDictProxy[str]]:
        server.under_way, server.asked = server.under_way + 1, server.asked + 1
        try:
            found = await self._http.ask(server.address, method, path, payload, deadline_s)
            server.heard = time.monotonic()
            return found
        finally:
            server.under_way -= 1
