"""Runs a command and ends it, with all its children, when the process that started it is gone.

``python -m backend.runtimes.guard COMMAND...`` in a session of its own, with a pipe as standard input that the starter
keeps open: the pipe closes however the starter ends, ``kill -9`` included. A vLLM server left alone would keep its engine
and worker processes, and their memory, for minutes.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time

_GRACE_S = 5.0


def main() -> int:
    """Run the command until it ends or standard input closes, then end whatever is left of the process group."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
    while child.poll() is None and not stopped:
        ready, _, _ = select.select([0], [], [], 0.2)
        if ready and not os.read(0, 4096):
            break
    os.killpg(0, signal.SIGTERM)  # this process only notes it
    deadline = time.monotonic() + _GRACE_S
    while child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(0, signal.SIGKILL)  # the engine and its workers too, and this process with them
    return 0


if __name__ == "__main__":
    sys.exit(main())
