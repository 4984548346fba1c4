"""An HTTP server that answers as vLLM's ``/pooling`` does, until it is told to answer wrongly."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from backend.runtimes.base import Engine, RuntimeSpec

D = 4
Ids = Sequence[Sequence[int]]


def states(prompt: Sequence[int]) -> np.ndarray:
    """Return what the server computes of one prompt: a value of its own for every token and place."""
    return np.array([[1 + token % 97 / 100 + place / 1000] * D for place, token in enumerate(prompt)], "<f2")


def answer(
    ids: Ids, *, of: Callable[[Sequence[int]], np.ndarray] = states, **changes: object
) -> tuple[bytes, dict[str, str]]:
    """Return body and metadata as vLLM gives them, with changes to the first row's metadata."""
    body, rows = b"", []
    for index, prompt in enumerate(ids):
        values = of(prompt)
        block = values.tobytes()
        row = {"index": index, "embed_dtype": "float16", "endianness": "little", "start": len(body)}
        rows.append(row | {"end": len(body) + len(block), "shape": list(values.shape)})
        body += block
    rows[0] |= changes
    return body, {"metadata": json.dumps({"data": rows})}


class Server(ThreadingHTTPServer):
    """Healthy until ``fault`` is set to a function (handler, ids)."""

    daemon_threads = True
    fault: Callable[[Any, Ids], object] | None = None
    models: tuple[str, ...] = ("base", "probe")
    version = "0.32.0"

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients hang up on it all the time."""


class Handler(BaseHTTPRequestHandler):
    """Answers one connection."""

    server: Server

    def do_GET(self) -> None:  # noqa: N802 - the name is the library's
        """Answer who this is."""
        cards = [{"id": name, "max_model_len": 64} for name in self.server.models]
        content = {"/version": {"version": self.server.version}, "/v1/models": {"data": cards}}[self.path]
        self.reply(json.dumps(content).encode())

    def do_POST(self) -> None:  # noqa: N802
        """Answer with states, or as the fault wants it."""
        self.payload = json.loads(self.rfile.read(int(self.headers["content-length"])))
        ids = self.payload["input"]
        (self.server.fault or healthy)(self, ids)

    def reply(
        self, body: bytes, headers: dict[str, str] | None = None, *, status: int = 200, length: int | None = None
    ) -> None:
        """Send a whole answer, or one that claims another length."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def serving() -> Iterator[Server]:
    """Run a server on a free port of loopback."""
    made = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    try:
        yield made
    finally:
        made.shutdown()
        made.server_close()


def spec_of(server: Server, **changes: Any) -> RuntimeSpec:
    """Return the runtime that such a server is."""
    url = f"http://127.0.0.1:{server.server_port}"
    return RuntimeSpec("remote", Engine.VLLM, "base", "float16", adapter="a", urls=(url,), **changes)


def healthy(handler: Handler, ids: Ids) -> None:
    """Answer rightly."""
    handler.reply(*answer(ids))


def other_model(handler: Handler, ids: Ids) -> None:
    """Answer as another model would: right in every number that is not a state."""
    handler.reply(*answer(ids, of=lambda prompt: (states(prompt) * 1.1).astype("<f2")))


def filled(value: float) -> Callable[[Handler, Ids], None]:
    """Return a fault that puts one value everywhere."""
    return lambda handler, ids: handler.reply(*answer(ids, of=lambda p: np.full((len(p), D), value, "<f2")))


def dribble(handler: Handler, ids: Ids) -> None:
    """Send a byte now and then: no read ever times out."""
    body, headers = answer(ids)
    handler.send_response(200)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    with suppress(OSError):
        for byte in body:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(0.3)


def bomb(handler: Handler, ids: Ids) -> None:
    """Answer rightly, followed by 32 MiB of zeros in 140 kB."""
    body, headers = answer(ids)
    handler.reply(gzip.compress(body) + _packed_zeros(), headers | {"content-encoding": "gzip"})


@cache
def _packed_zeros() -> bytes:
    return gzip.compress(bytes(2**25), 1)


def doubled(handler: Handler, ids: Ids) -> None:
    """Let the second prompt's row be the first one's bytes."""
    body, headers = answer(ids)
    rows = json.loads(headers["metadata"])["data"]
    rows[-1]["start"] = rows[0]["start"]
    rows[-1]["end"] = rows[0]["start"] + 2 * D * rows[-1]["shape"][0]
    handler.reply(body, {"metadata": json.dumps({"data": rows})})


def endless(handler: Handler, _: Ids) -> None:
    """Send more and more without saying how much."""
    handler.send_response(200)
    handler.end_headers()
    with suppress(OSError):
        while True:
            handler.wfile.write(bytes(2**20))


# each with what the error has to say
FAULTS: dict[str, tuple[Callable[[Any, Ids], object], str]] = {
    "404": (lambda h, ids: h.reply(b'{"error": {"message": "no such model"}}', status=404), "status 404"),
    "429": (lambda h, ids: h.reply(b"", status=429), "status 429"),
    "500": (lambda h, ids: h.reply(b"<html>broken</html>", status=500), "status 500"),
    "an error with states": (lambda h, ids: h.reply(*answer(ids), status=503), "status 503"),
    "redirect": (lambda h, ids: h.reply(b"", {"location": "http://127.0.0.1:9/pooling"}, status=307), "status 307"),
    "garbage": (lambda h, ids: h.reply(b"hello"), "not what vLLM"),
    "garbage metadata": (lambda h, ids: h.reply(b"hello", {"metadata": "{"}), "not what vLLM"),
    "gzip bomb": (bomb, "not what vLLM"),
    "truncated": (lambda h, ids: h.reply(answer(ids)[0][:-4], answer(ids)[1], length=999), "connection broke"),
    "body too short": (lambda h, ids: h.reply(answer(ids)[0][:-4], answer(ids)[1]), "token contract"),
    "body too long": (lambda h, ids: h.reply(answer(ids)[0] + bytes(8), answer(ids)[1]), "token contract"),
    "a prompt missing": (lambda h, ids: h.reply(*answer(ids[:1])), "token contract"),
    "a prompt twice": (doubled, "token contract"),
    "a row too few": (lambda h, ids: h.reply(*answer([ids[0][1:], *ids[1:]])), "token contract"),
    "wrong width": (lambda h, ids: h.reply(*answer(ids, shape=[len(ids[0]), 8])), "token contract"),
    "negative offsets": (lambda h, ids: h.reply(*answer(ids, start=-8 * len(ids[0]), end=0)), "token contract"),
    "unknown dtype": (lambda h, ids: h.reply(*answer(ids, embed_dtype="fp8_e4m3")), "token contract"),
    "another dtype of two bytes": (lambda h, ids: h.reply(*answer(ids, embed_dtype="bfloat16")), "token contract"),
    "big endian": (lambda h, ids: h.reply(*answer(ids, endianness="big")), "token contract"),
    "NaN": (filled(float("nan")), "NaN"),
    "infinity": (filled(float("inf")), "infinity"),
    "dribble": (dribble, "no answer within"),
    "endless": (endless, ""),  # too slow or too long, whichever comes first
    "hangs": (lambda h, ids: time.sleep(5), "no answer within"),
    "hangs up": (lambda h, ids: h.connection.close(), "connection broke"),
}
