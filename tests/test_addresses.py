"""Only listed servers in their usual spelling are ever connected to, and at the address they had first."""

import socket

import pytest

from backend.errors import PrerequisiteError
from backend.runtimes.addresses import resolve
from backend.runtimes.base import Engine, RuntimeSpec
from backend.runtimes.vllm import VLLMRuntime

REFUSED = [
    "http://0x7f000001:8000",
    "http://0x7f.0.0.1:8000",
    "http://2130706433:8000",
    "http://127.1:8000",
    "http://127.0.1:8000",
    "http://0:8000",
    "http://0.0.0.0:8000",
    "http://0177.0.0.1:8000",
    "http://017700000001:8000",
    "http://127.0.0.01:8000",
    "http://127.0.0.2:8000",
    "http://[::ffff:127.0.0.1]:8000",
    "http://[::ffff:7f00:1]:8000",
    "http://[::]:8000",
    "http://[0:0:0:0:0:0:0:1]:8000",
    "http://[fe80::1%25eth0]:8000",
    "http://169.254.169.254",
    "http://169.254.169.254:80",
    "http://[fd00:ec2::254]",
    "http://10.0.0.1:8000",
    "http://192.168.1.1:8000",
    "http://metadata.google.internal",
    "http://127.0.0.1.nip.io:8000",
    "http://localhost.:8000",
    "http://localhost.evil.example:8000",
    "http://127.0.0.1@evil.example:8000",
    "http://evil.example#@127.0.0.1:8000",
    "http://evil.example?@127.0.0.1",
    "http://127.0.0.1:8000?x=1",
    "http://127.0.0.1:8000#x",
    "http://127.0.0.1:8000/../x",
    "http://127.0.0.1:0",
    "http://127.0.0.1:99999",
    "http://127.0.0.1:x",
    "ftp://127.0.0.1:8000",
    "file:///etc/passwd",
    "gopher://127.0.0.1:8000",
    "//127.0.0.1:8000",
    "127.0.0.1:8000",
    "http:127.0.0.1:8000",
    "http:///127.0.0.1",
    "http://",
    "http://127。0。0。1:8000",
    "http://locаlhost:8000",
    "http://１２７.0.0.1:8000",
    "http://_x:8000",
    "http://-x:8000",
    "http://evil.example\\@127.0.0.1",
    "javascript:alert(1)",
    "data:text/plain,x",
    "unix:///var/run/docker.sock",
]
REFUSED += ["http://127.0.0.1 :8000", "http://127.0.0.1:8000\r\nX: y", "http://\t127.0.0.1:8000", "http://localhost\0:8000"]


def test_forty_spellings_lead_to_no_connection(monkeypatch):
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *to, **_: asked.append(to))
    monkeypatch.setattr(socket.socket, "connect", lambda _, to: asked.append(to))
    assert len(REFUSED) >= 40
    for url in REFUSED:
        with pytest.raises(PrerequisiteError) as raised:
            VLLMRuntime.connect(RuntimeSpec("remote", Engine.VLLM, "base", "float16", urls=(url,)))
        assert raised.value.remedy and str(raised.value).isascii(), url
    assert not asked


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:8000", "http://localhost:8000/", "http://[::1]:8000", "https://127.0.0.1"]
)
def test_loopback_is_allowed(url):
    assert resolve("remote", url).base.split("//")[1].startswith(("127.0.0.1", "[::1]"))


def test_the_operator_lists_hosts_and_a_name_is_pinned(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, port, **_: [(0, 0, 0, "", ("10.1.2.3", port))])
    with pytest.raises(PrerequisiteError, match="not on the list"):
        resolve("remote", "https://gpu.example.org/vllm")
    monkeypatch.setenv("PROBE_PARITY_SERVERS", "other:8000, gpu.example.org")
    made = resolve("remote", "https://me:secret@gpu.example.org/vllm/")
    assert (
        made.base == "https://10.1.2.3:443/vllm" and made.name == "gpu.example.org" and made.credentials == ("me", "secret")
    )
    assert "secret" not in made.shown
    assert resolve("remote", "http://other:8000").base == "http://10.1.2.3:8000"
    with pytest.raises(PrerequisiteError, match="not on the list"):
        resolve("remote", "http://other:8001")


def test_a_name_that_does_not_resolve(monkeypatch):
    monkeypatch.setenv("PROBE_PARITY_SERVERS", "nowhere.invalid")
    with pytest.raises(PrerequisiteError, match="does not resolve"):
        resolve("remote", "http://nowhere.invalid:8000")
