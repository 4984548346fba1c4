"""What it costs that states come over HTTP: ``python -m benchmarks.transfer [--prompts N]... [--json]``.

A server on uvicorn and Starlette, as vLLM's is, answers at once with the float16 states of 64 tokens of width 4,096 for
each prompt. The client of this project, httpx with its usual reader, and Python's own blocking one, which does nothing but
read, ask it in turn; nothing is computed, so that all of the time is HTTP's.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import multiprocessing
import time
from collections.abc import Callable
from contextlib import closing
from functools import cache

import httpx
import numpy as np

from backend.runtimes.addresses import resolve
from backend.runtimes.vllm_exchange import Unreachable
from backend.runtimes.vllm_http import Client
from backend.runtimes.vllm_process import free_port
from benchmarks.lying_server import answer
from benchmarks.measuring import Report, in_turn, parser

TOKENS, WIDTH = 64, 4096
ROW_BYTES = TOKENS * WIDTH * 2  # of one prompt


def main() -> None:
    """Serve, ask and print medians and ratios."""
    known = parser(__doc__)
    known.add_argument("--prompts", type=int, action="append", help="in one request; may be repeated; default 1, 8, 64")
    known.add_argument("--rounds", type=int, default=60)
    options = known.parse_args()
    report = Report("transfer", options.json)
    port = free_port()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(port,), daemon=True)
    server.start()
    client = Client("transfer", [resolve("transfer", f"http://127.0.0.1:{port}")], deadline_s=60)
    try:
        _until_served(client)
        for prompts in options.prompts or (1, 8, 64):
            payload = {"input": [list(range(TOKENS))] * prompts}
            # a plain loop: under asyncio.Runner, which keeps one context for all calls, httpx takes several times as long
            with closing(asyncio.new_event_loop()) as loop:
                asked = [_ours(client, payload), _httpx(loop, port, payload), _blocking(port, payload)]
                if len({len(ask()) for ask in asked}) != 1:
                    raise RuntimeError("the clients read answers of different length")
                ours, usual, bare = in_turn(asked, rounds=options.rounds, warm=3)
            name = f"{prompts} prompts, {prompts * ROW_BYTES / 2**20:g} MiB"
            report.add(f"{name}, this project", **ours.figures(), httpx_ratio=usual.median / ours.median)
            report.add(f"{name}, httpx", **usual.figures())
            report.add(f"{name}, http.client", **bare.figures())
    finally:
        client.close()
        server.terminate()
        server.join()
    report.close()


def serve(port: int) -> None:
    """Answer ``POST /pooling`` as vLLM does: one chunk a prompt, and a header that says where each lies."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    async def pooling(request: Request) -> StreamingResponse:
        chunks, headers = _answer(len((await request.json())["input"]))
        return StreamingResponse(chunks, headers=headers)

    uvicorn.run(Starlette(routes=[Route("/pooling", pooling, methods=["POST"])]), port=port, log_level="error")


@cache
def _answer(prompts: int) -> tuple[list[bytes], dict[str, str]]:
    body, headers = answer([range(TOKENS)] * prompts, of=lambda _: np.zeros((TOKENS, WIDTH), "<f2"))
    return [body[start : start + ROW_BYTES] for start in range(0, len(body), ROW_BYTES)], headers


def _until_served(client: Client) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            client.pool([{"input": [[0]]}])
            return
        except Unreachable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _ours(client: Client, payload: dict[str, object]) -> Callable[[], bytes]:
    return lambda: client.pool([payload])[0].body


def _httpx(loop: asyncio.AbstractEventLoop, port: int, payload: dict[str, object]) -> Callable[[], bytes]:
    """Return a request through httpx, which the client of this project spoke through before."""
    client = httpx.AsyncClient(trust_env=False)

    async def ask() -> bytes:
        return (await client.post(f"http://127.0.0.1:{port}/pooling", json=payload)).content

    return lambda: loop.run_until_complete(ask())


def _blocking(port: int, payload: dict[str, object]) -> Callable[[], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port)
    body = json.dumps(payload)

    def ask() -> bytes:
        connection.request("POST", "/pooling", body, {"Content-Type": "application/json"})
        return connection.getresponse().read()

    return ask


if __name__ == "__main__":
    main()
