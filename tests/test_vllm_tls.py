"""A server's certificate has to be its name's, though requests go to the address that the name was pinned to."""

import json
import os
import ssl
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import trustme

NAME = "gpu.example.org"
ASK = """
import sys
from backend.errors import BackendError
from backend.runtimes.addresses import Address
from backend.runtimes.vllm_http import Client
port, name = sys.argv[1:]
address = Address(f"https://127.0.0.1:{port}", f"{name}:{port}", name, f"https://{name}:{port}")
client = Client("remote", [address], deadline_s=10)
try:
    print(client.get_json("/version"))
except BackendError as error:
    print(error)
client.close()
"""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):  # noqa: N802 - the name is the library's
        body = json.dumps({"host": self.headers["Host"]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Port of a server with a certificate for `NAME`, and the file of the authority that signed it."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME).configure_cert(context)
    server = HTTPServer(("127.0.0.1", 0), _Handler)
    server.handle_error = lambda *_: None  # a client that refuses the certificate breaks off
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    trusted = tmp_path_factory.mktemp("tls") / "authority.pem"
    authority.cert_pem.write_to_path(str(trusted))
    yield server.server_port, trusted
    server.shutdown()
    server.server_close()


def _asked(port, name, trusted=None):
    # a process of its own: what is trusted is read once, when the library is imported
    environment = os.environ | ({"SSL_CERT_FILE": str(trusted)} if trusted else {})
    command = [sys.executable, "-c", ASK, str(port), name]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60).stdout


def test_the_certificate_of_the_name_is_taken(served):
    port, trusted = served
    assert f"'host': '{NAME}:{port}'" in _asked(port, NAME, trusted)


def test_the_certificate_of_another_name_and_one_that_nobody_vouches_for_are_refused(served):
    port, trusted = served
    for said in (_asked(port, "other.example.org", trusted), _asked(port, NAME)):
        assert "remote: no trusted connection" in said and "certificate" in said.lower(), said
