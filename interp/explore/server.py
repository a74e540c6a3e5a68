"""The explorer in a browser: the page, and the answers to its questions, on this machine only.

For one person on their own machine, which is what Python's own server is good for. It binds the
loopback address; whoever asks must know the token in the address, and name this server as its host,
so that neither other users nor pages of other sites (through DNS rebinding) reach the model.
"""

from __future__ import annotations

import hmac
import json
import secrets
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock
from typing import Any

from interp.explore.explorer import Explorer
from interp.explore.page import HERE, script, style

LOOPBACK = "127.0.0.1"
LARGEST = 2**20
"""Bytes of a question."""
JSON = "application/json"
FILES = {
    "": ("text/html", lambda: (HERE / "index.html").read_text(encoding="utf-8")),
    "page.js": ("text/javascript", lambda: (HERE / "page.js").read_text(encoding="utf-8")),
    "explorer.js": ("text/javascript", script),
    "explorer.css": ("text/css", style),
}
#: Nothing but this page's own script and style, pictures inside answers, and questions to here.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Server(ThreadingHTTPServer):
    """Serves one explorer until it is shut down.

    Example:
        >>> with serve(explorer) as server:
        ...     print(server.address)
        ...     server.serve_forever()
    """

    daemon_threads = True

    def __init__(self, explorer: Explorer, port: int) -> None:
        super().__init__((LOOPBACK, port), Handler)
        self.explorer, self.token, self.lock = explorer, secrets.token_urlsafe(24), Lock()

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{LOOPBACK}:{self.server_port}/{self.token}/"

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """The explorer's answer; several tabs take turns at the model."""
        if question.get("ask") == "drop":
            self.explorer.drop(question.get("id"))
            return {}
        with self.lock:
            return self.explorer.answer(question)


def serve(explorer: Explorer, port: int = 0) -> Server:
    """A server of an explorer on the loopback address, which begins with `serve_forever()`.

    Example:
        >>> serve(explorer).address
        'http://127.0.0.1:.../'

    Args:
        explorer: what answers.
        port: 0 takes a free one.
    """
    return Server(explorer, port)


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    server_version, sys_version = "interp", ""

    def do_GET(self) -> None:
        """The page's files."""
        name = self._place()
        if name not in FILES:
            self._say(404, "text/plain", "Open the address that `interp explore` printed.")
            return
        kind, read = FILES[name]
        self._say(200, kind, read())

    def do_POST(self) -> None:
        """A question."""
        length = self.headers.get("Content-Length", "")
        size = int(length) if length.isdecimal() else LARGEST + 1
        own = self.headers.get("Origin") in self._origins()
        if self._place() != "ask" or not own or self.headers.get_content_type() != JSON:
            self._say(403, "text/plain", "Questions are asked by the page itself.")
        elif size > LARGEST:
            self._say(413, "text/plain", f"A question has at most {LARGEST} bytes.")
        else:
            self._answer(self.rfile.read(size))

    def log_message(self, *_: Any) -> None:
        """Nothing is logged: addresses hold the token."""

    def _answer(self, body: bytes) -> None:
        try:
            question = json.loads(body)
        except ValueError:
            question = None
        if not isinstance(question, dict):
            self._say(400, "text/plain", "A question is a JSON object.")
            return
        self._say(200, JSON, json.dumps(self.server.answer(question)))

    def _place(self) -> str | None:
        """What of the page is asked for; None where host or token are not ours."""
        hosts = [origin.removeprefix("http://") for origin in self._origins()]
        _, token, *rest = [*self.path.split("/", 2), ""]
        known = hmac.compare_digest(token.encode(), self.server.token.encode())
        return rest[0] if known and self.headers.get("Host") in hosts else None

    def _origins(self) -> list[str]:
        return [f"http://{name}:{self.server.server_port}" for name in (LOOPBACK, "localhost")]

    def _say(self, status: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)
