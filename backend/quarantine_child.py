"""The process that reads strangers' files: ``python -m backend.quarantine_child``; started and asked by `quarantine`.

One JSON request a line on standard input, one JSON answer a line on standard output. Each request is served by a fork with
limits on memory and time, so that whatever a file does to it, this process lives on and can say what was being read. It
ends when standard input closes, however its starter ended, and when nobody asks for a minute.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

IDLE_S = 60.0
_NO_MEMORY = 77  # exit status of a fork
_WALL = 3  # times the limit on processor time: a machine may have much else to do


def main() -> int:
    """Serve requests until nobody is left who could ask."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)  # no library may print between the answers
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    os.dup2(nothing, 0)
    while select.select([requests], [], [], IDLE_S)[0]:
        line = requests.readline()
        if not line:
            break
        request = json.loads(line)
        for name in request["imports"]:
            importlib.import_module(name)  # here, so that the next fork has it
        print(json.dumps(_serve(request, requests)), file=answers, flush=True)
    return 0


def _serve(request: dict[str, Any], requests: Any) -> dict[str, Any]:
    """Run one request in a fork and return its answer, or how it died and what it was reading."""
    read, write = os.pipe()
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _work(request, write)
    os.close(write)
    deadline = started + _WALL * request["seconds"]
    data, late = b"", False
    while True:
        ready, _, _ = select.select([read, requests], [], [], max(0.0, deadline - time.monotonic()))
        if read in ready:
            part = os.read(read, 1 << 16)
            data += part
            if part:
                continue
            break
        late = not ready
        os.kill(pid, signal.SIGKILL)  # too late, or nobody is there any more
        break
    os.close(read)
    _, status = os.waitpid(pid, 0)
    said = [json.loads(line) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]
    answer: dict[str, Any] = {"problems": [line["problem"] for line in said if "problem" in line]}
    answer["reading"] = next((line["reading"] for line in reversed(said) if "reading" in line), "")
    if said and "error" in said[-1]:
        return {**answer, **said[-1]}
    return answer if said and "done" in said[-1] else answer | {"died": _how(status, late=late)}


def _work(request: dict[str, Any], write: int) -> None:
    """Serve a request under limits and leave the process; never returns."""
    code = 1
    try:
        os.environ |= request["environment"]
        _limit(request)
        _answer(request, lambda content: os.write(write, json.dumps(content).encode() + b"\n"))
        code = 0
    except MemoryError:
        code = _NO_MEMORY
    finally:
        os._exit(code)


def _answer(request: dict[str, Any], say: Callable[[dict[str, Any]], object]) -> None:
    """Say what is read, each problem as it is found, and at last that it is done, or why not."""
    from backend.errors import BackendError

    def announce(name: str) -> None:
        say({"reading": name})

    try:
        if request["task"] == "verify":
            from backend.verify import find_problems

            for problem in find_problems(Path(request["paths"][0]), announce=announce):
                say({"problem": asdict(problem)})
        else:
            from backend.examination import examine

            for path in request["paths"]:
                examine(Path(path), announce)
    except BackendError as error:
        kind = type(error).__name__
        say({"error": {"kind": kind, "what": error.what, "found": error.found, "remedy": error.remedy}})
    else:
        say({"done": True})


def _limit(request: dict[str, Any]) -> None:
    """Limit memory beyond what is mapped already, processor time, and files written to none."""
    mapped = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    memory, seconds = mapped + request["memory"], request["seconds"]
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))  # SIGXCPU first, then SIGKILL
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _how(status: int, *, late: bool) -> str:
    if late or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return "it took too long"
    if os.WIFSIGNALED(status):
        number = signal.Signals(os.WTERMSIG(status))
        return "it took too much memory" if number is signal.SIGKILL else number.name
    return "it took too much memory" if os.WEXITSTATUS(status) == _NO_MEMORY else "it ended"


if __name__ == "__main__":
    sys.exit(main())
