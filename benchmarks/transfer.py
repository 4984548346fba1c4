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

import httpx

from backend.runtimes.addresses import resolve
from backend.runtimes.vllm_http import Client
from backend.runtimes.vllm_process import free_port
from benchmarks.measuring import Report, in_turn, parser

TOKENS, WIDTH = 64, 4096


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
    try:
        for prompts in options.prompts or (1, 8, 64):
            payload = {"input": [list(range(TOKENS))] * prompts}
            with closing(Client("transfer", [resolve("transfer", f"http://127.0.0.1:{port}")], deadline_s=60)) as client:
                _until_served(client)
                asked = [_ours(client, payload), _httpx(port, payload), _blocking(port, payload)]
                if len({len(ask()) for ask in asked}) != 1:
                    raise RuntimeError("the clients read answers of different length")
                ours, usual, bare = in_turn(asked, rounds=options.rounds, warm=3)
            name = f"{prompts} prompts, {prompts * TOKENS * WIDTH * 2 / 2**20:g} MiB"
            report.add(f"{name}, this project", **ours.figures(), httpx_ratio=usual.median / ours.median)
            report.add(f"{name}, httpx", **usual.figures())
            report.add(f"{name}, http.client", **bare.figures())
    finally:
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

    size = TOKENS * WIDTH * 2
    row = bytes(size)

    async def pooling(request: Request) -> StreamingResponse:
        n = len((await request.json())["input"])
        rows = [
            {"index": i, "embed_dtype": "float16", "endianness": "little", "start": i * size, "end": (i + 1) * size}
            | {"shape": [TOKENS, WIDTH]}
            for i in range(n)
        ]
        return StreamingResponse([row] * n, headers={"metadata": json.dumps({"data": rows})})

    uvicorn.run(Starlette(routes=[Route("/pooling", pooling, methods=["POST"])]), port=port, log_level="error")


def _until_served(client: Client) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            client.pool([{"input": []}])
            return
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _ours(client: Client, payload: dict[str, object]) -> Callable[[], bytes]:
    return lambda: client.pool([payload])[0].body


def _httpx(port: int, payload: dict[str, object]) -> Callable[[], bytes]:
    """Return a request through httpx, which the client of this project spoke through before."""
    loop = asyncio.new_event_loop()
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
