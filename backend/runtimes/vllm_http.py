"""HTTP to a vLLM server, with a total deadline on every request and each failure named.

aiohttp rather than httpx: states are megabytes, and httpx's reader, in Python, takes 1.3 to 2 times as long as aiohttp's,
in C, which is little slower than reading a socket is (`benchmarks.transfer`).
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from backend.errors import PrerequisiteError, RuntimeFault, RuntimeTimeout
from backend.runtimes.addresses import Address

if TYPE_CHECKING:
    import aiohttp
    from multidict import CIMultiDictProxy

T = TypeVar("T")
CONNECT_S = 10.0
DOWN_S = 10.0  # how long a server that refused a connection is asked last
SILENCE_S = 15.0  # after which a server is asked what it is known to answer, before anything that counts
_MAX_ANSWER_BYTES = 2**29  # 4,096 tokens of width 16,384 in float32 are half of it
_MAX_JSON_BYTES = 2**22
_MAX_HEADER_BYTES = 2**17  # the metadata of 64 prompts is one header of 8 kB
_KEEP_S = 4.0  # how long an idle connection is kept: vLLM closes it after 5, and a request must not meet that
_RESTART = "The lane recovers by itself if this app started the server; otherwise restart it."


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


class Unreachable(PrerequisiteError):
    """Nobody listens at an address; another server may answer."""


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
        self._http = self._wait(self._open())

    def get_json(self, path: str, *, deadline_s: float = CONNECT_S) -> dict[str, Any]:
        """Fetch a JSON object; raises as `pool` does."""
        body = self._wait(self._exchange("GET", path, None, deadline_s))[0]
        try:
            content = json.loads(body)
        except ValueError as error:
            raise self._garbage(body) from error
        if not isinstance(content, dict):
            raise self._garbage(body)
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

    async def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=16, keepalive_timeout=_KEEP_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            # nothing compressed: states do not shrink, and a few kilobytes could become gigabytes
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,  # proxies of the environment would send prompts elsewhere
            read_bufsize=2**20,
            max_field_size=_MAX_HEADER_BYTES,
        )

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
            raise self._garbage(body) from error
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
        import aiohttp

        at = server.address
        auth = None if at.credentials is None else aiohttp.BasicAuth(*at.credentials)
        server.under_way, server.asked = server.under_way + 1, server.asked + 1
        try:
            async with (
                asyncio.timeout(deadline_s),
                self._http.request(
                    method,
                    at.base + path,
                    json=payload,
                    headers={"Host": at.host, "X-Request-Id": _request_id(payload)},
                    auth=auth,
                    allow_redirects=False,
                    server_hostname=at.name,  # the certificate is the name's, not the address's
                ) as response,
            ):
                body = await self._body(response, _MAX_JSON_BYTES if payload is None else _MAX_ANSWER_BYTES)
            if response.status != 200:
                raise self._refused(response.status, body)
            server.heard = time.monotonic()
            return body, response.headers
        except aiohttp.ClientSSLError as error:
            raise Unreachable(
                f"{self._name}: no trusted connection to {at.shown}",
                found=str(error)[:160],
                remedy="Its certificate has to be for that name; SSL_CERT_FILE names authorities of your own.",
            ) from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unreachable(
                f"{self._name}: no server answers at {at.shown}",
                found=str(error)[:120],
                remedy="Start it, or correct the url in bundle.toml.",
            ) from error
        except TimeoutError as error:
            raise RuntimeTimeout(
                f"{self._name}: no answer within {deadline_s:g} s", remedy="The server is overloaded or hangs. " + _RESTART
            ) from error
        except aiohttp.ClientError as error:
            raise RuntimeFault(
                f"{self._name}: the connection broke", found=f"{type(error).__name__}: {error}"[:160], remedy=_RESTART
            ) from error
        finally:
            server.under_way -= 1

    async def _body(self, response: aiohttp.ClientResponse, most: int) -> bytes:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise self._garbage(b"a compressed answer, which nobody asked for")
        chunks, size = [], 0
        async for chunk in response.content.iter_any():
            chunks.append(chunk)
            size += len(chunk)
            if size > most:
                raise self._garbage(f"an answer above {most // 2**20} MiB".encode())
        return b"".join(chunks)

    def _refused(self, status: int, body: bytes) -> RuntimeFault:
        text = body.decode("utf-8", "replace")
        try:
            content = json.loads(text)
            text = str(content.get("error", content).get("message", text))
        except (ValueError, AttributeError):
            pass  # some proxies answer in HTML; shown as it is
        remedy = {
            404: "The server has no model or adapter of that name; start it with the line of `serve-command`.",
            429: "The server is overloaded; try again.",
        }.get(status, "Look at the server's log.")
        return RuntimeFault(f"{self._name}: the server refused with status {status}", found=text[:200], remedy=remedy)

    def _garbage(self, body: bytes) -> RuntimeFault:
        return RuntimeFault(
            f"{self._name}: the answer is not what vLLM's /pooling gives",
            found=repr(bytes(body[:60])),
            remedy="Check that the url is a vLLM server with `--runner pooling`.",
        )


def _request_id(payload: dict[str, object] | None) -> str:
    """Return a name that says how many prompts there are: a scheduler of ours waits for all of them (`vllm_engine`)."""
    prompts = (payload or {}).get("input")
    return f"{uuid.uuid4().hex}-of{len(prompts) if isinstance(prompts, list) else 0}"
