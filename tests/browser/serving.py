"""The app on a free port, and a real browser."""

import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx

from backend.runtimes.vllm_process import free_port

ROOT = Path(__file__).parent.parent.parent


@contextmanager
def serve(folder, environment=None):
    """Run the app with its store and log in a folder; yield its address."""
    with serve_process(folder, environment) as (url, _):
        yield url


@contextmanager
def serve_process(folder, environment=None, *, limit_s=60):
    """Run the app as `serve` does; yield its address and its process."""
    port = free_port()
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    environment = os.environ | {"PROBE_PARITY_STORE": str(folder)} | (environment or {})
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment)
        url = f"http://127.0.0.1:{port}"
        try:
            wait_for(url, process, limit_s=limit_s)
            yield url, process
        finally:
            process.terminate()
            process.wait(timeout=60)


def wait_for(url, process, *, limit_s=60):
    """Wait until the server answers; it is an error if it ends, or takes longer."""
    deadline = time.monotonic() + limit_s
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/_stcore/health", trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise TimeoutError(f"no answer from {url}, exit code {process.poll()}")


def launch(playwright):
    """Start Debian's Chromium."""
    chromium = shutil.which("chromium")
    if chromium is None:
        raise FileNotFoundError("These need the Debian package chromium: `apt-get install chromium`, or `make test`.")
    arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    return playwright.chromium.launch(executable_path=chromium, args=arguments)


def idle(page):
    """Wait until the page's script is not running."""
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", timeout=120_000)
