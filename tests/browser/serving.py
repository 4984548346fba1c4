"""The app on a free port, and a real browser."""

import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent.parent


@contextmanager
def serve(folder, environment=None):
    """Run the app with its store and log in a folder; yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    environment = os.environ | {"PROBE_PARITY_STORE": str(folder)} | (environment or {})
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment)
        url = f"http://127.0.0.1:{port}"
        try:
            _wait(url)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=30)


def _wait(url):
    for _ in range(240):
        try:
            if httpx.get(f"{url}/_stcore/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.25)
    raise TimeoutError(f"no answer from {url}")


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
