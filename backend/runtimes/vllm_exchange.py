"""One HTTP request to one server: within limits of time and size, and each failure named.

aiohttp rather than httpx: states are megabytes, and httpx's reader, in Python, takes 1.3 to 2 times as long as aiohttp's,
in C, which is little slower than reading a socket is (`benchmarks.transfer`).
"""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import TYPE_CHECKING

from backend.errors import PrerequisiteError, RuntimeFault, RuntimeTimeout
from backend.runtimes.addresses import Address

if TYPE_CHECKING:
    import aiohttp
    from multidict import CIMultiDictProxy

CONNECT_S = 10.0
_MAX_ANSWER_BYTES = 2**29  # 4,096 tokens of width 16,384 in float32 are half of it
_MAX_JSON_BYTES = 2**22
_MAX_HEADER_BYTES = 2**17  # the metadata of 64 prompts is one header of 8 kB
_KEEP_S = 4.0  # how long an idle connection is kept: vLLM closes it after 5, and a request must not meet that
_RESTART = "The lane recovers by itself if this app started the server; otherwise restart it."


class Unreachable(PrerequisiteError):
    """Nobody listens at an address; another server may answer."""


class Exchange:
    """Connections to servers, used from the event loop that opened them alone.

    Args:
        name: of the runtime, for messages.
        session: with the limits of `open`.
    """

    def __init__(self, name: str, session: aiohttp.ClientSession) -> None:
        self._name = name
        self._session = session

    @classmethod
    async def open(cls, name: str) -> Exchange:
        """Prepare connections, none of which is made yet."""
        import aiohttp

        session = aiohttp.ClientSession(
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
        return cls(name, session)

    async def close(self) -> None:
        """Close all connections."""
        await self._session.close()

    async def ask(
        self, at: Address, method: str, path: str, payload: dict[str, object] | None, deadline_s: float
    ) -> tuple[bytes, CIMultiDictProxy[str]]:
        """Send a request, JSON where there is a payload, and return body and headers of the answer.

        Raises:
            Unreachable: nobody listens there, or somebody with another certificate.
            RuntimeTimeout: no whole answer within `deadline_s` seconds.
            RuntimeFault: refused, broken off, compressed or too large.
        """
        import aiohttp

        auth = None if at.credentials is None else aiohttp.BasicAuth(*at.credentials)
        try:
            async with (
                asyncio.timeout(deadline_s),
                self._session.request(
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

    async def _body(self, response: aiohttp.ClientResponse, most: int) -> bytes:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise self.garbage(b"a compressed answer, which nobody asked for")
        chunks, size = [], 0
        async for chunk in response.content.iter_any():
            chunks.append(chunk)
            size += len(chunk)
            if size > most:
                raise self.garbage(f"an answer above {most // 2**20} MiB".encode())
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

    def garbage(self, body: bytes) -> RuntimeFault:
        """Return the error for an answer that makes no sense."""
        return RuntimeFault(
            f"{self._name}: the answer is not what vLLM's /pooling gives",
            found=repr(bytes(body[:60])),
            remedy="Check that the url is a vLLM server with `--runner pooling`.",
        )


def _request_id(payload: dict[str, object] | None) -> str:
    """Return a name that says how many prompts there are: a scheduler of ours waits for all of them (`vllm_engine`)."""
    prompts = (payload or {}).get("input")
    return f"{uuid.uuid4().hex}-of{len(prompts) if isinstance(prompts, list) else 0}"
