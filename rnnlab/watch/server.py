"""The server of the page: two addresses, / and /api, for reading alone. No path comes from a request."""

import base64
import errno
import gzip
import hashlib
import ipaddress
import json
import socket
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from rnnlab.config.errors import ConfigError

LOOPBACK = "127.0.0.1"
_SMALL = 1 << 10
"""A shorter answer is not compressed."""

Answer = Callable[[str, int, str, str, str], dict[str, Any]]
"""`Watcher.answer`."""


class PageServer(ThreadingHTTPServer):
    """Serves one page and its data.

    Args:
        host, port: where it listens; port 0: a free one.
        page: the HTML, with one inline script between <script> and </script>.
        answer: gives the data.

    Raises:
        ConfigError: it cannot listen there.
    """

    daemon_threads = True
    allow_reuse_address = sys.platform != "win32"  # There it would let two servers share a port.

    def __init__(self, host: str, port: int, page: str, answer: Answer):
        if not host:  # To a socket it is every address.
            raise ConfigError(
                f"--host is empty; --host={LOOPBACK} is this machine alone, --host=0.0.0.0 all that reach it"
            )
        self.page, self.answer = page.encode(), answer
        script = page.partition("<script>")[2].partition("</script>")[0]
        hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        self.policy = (
            f"default-src 'none'; script-src 'sha256-{hashed}'; style-src 'unsafe-inline'; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        self.host = host
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), _Handler)
        except OSError as error:
            raise ConfigError(_why(error, host, port)) from None
        self.names = {"localhost", host.lower()}
        if not is_loopback(host):
            self.names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    def server_bind(self) -> None:
        """Without the look-up of the machine's name, which may take seconds and is used for nothing."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(self.allow_reuse_address))
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = self.host, self.server_address[1]

    @property
    def url(self) -> str:
        """The page's address, on this machine."""
        host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/"

    def knows(self, header: str) -> bool:
        """Whether a request's Host is this server: another name may have been bound to its address, so that a page of
        elsewhere could read what is here (DNS rebinding). An address by its numbers cannot."""
        name = urlsplit(f"//{header}").hostname or ""
        return name in self.names or _is_address(name)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that went away is not worth a word."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    server: PageServer  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        try:
            self._get()
        except ValueError:
            self._send(400, "text/plain", b"a number is none\n")

    do_HEAD = do_GET

    def _get(self) -> None:
        if not self.server.knows(self.headers.get("Host", "")):
            self._send(403, "text/plain", b"this server goes by another name; see --host\n")
            return
        address = urlsplit(self.path)
        if address.path == "/":
            self._send(200, "text/html; charset=utf-8", self.server.page)
        elif address.path == "/api":
            words = {name: values[-1] for name, values in parse_qs(address.query).items()}
            run, head, token, metric = (words.get(name, "") for name in ("run", "head", "token", "metric"))
            content = self.server.answer(run, int(words.get("since", 0)), head, token, metric)
            status = 404 if content["kind"] == "unknown" else 200
            self._send(status, "application/json", json.dumps(content, separators=(",", ":")).encode())
        else:
            self._send(404, "text/plain", b"there is / and /api\n")

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        if len(body) > _SMALL and "gzip" in self.headers.get("Accept-Encoding", ""):
            body = gzip.compress(body, compresslevel=1)
            self.send_header("Content-Encoding", "gzip")
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": self.server.policy,
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def version_string(self) -> str:
        return "rnnlab"

    def log_message(self, format: str, *words: Any) -> None:
        """Nothing: a page asks every other second."""


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _why(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"--port={port} is in use on {host}; take another, or leave --port out for a free one"
    if error.errno == errno.EACCES:
        return f"--port={port}: ports below 1024 are the administrator's; leave --port out for a free one"
    reason = error.strerror or error
    return f"--host={host}: this machine has no such address ({reason}); --host={LOOPBACK} is this machine alone"
