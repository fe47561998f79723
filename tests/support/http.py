"""A small HTTP server for the tests: a function says what it answers, and what was asked is noted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self


class Request(NamedTuple):
    time: float  # monotonic
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


Answer = tuple[int, dict[str, str], bytes]  # status, headers, body


class HttpServer:
    """On 127.0.0.1, in threads. `answer(request)` says what each request gets."""

    def __init__(self, answer: Callable[[Request], Answer]) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def setup(self) -> None:
                outer.connections += 1
                super().setup()

            def do_GET(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                request = Request(time.monotonic(), self.path, dict(self.headers.items()), body)
                outer.requests.append(request)
                status, headers, body = answer(request)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if status != 304:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False
        self._server.block_on_close = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def url(self, path: str = "/", login: str = "") -> str:
        return f"http://{login}127.0.0.1:{self._server.server_address[1]}{path}"

    def asked(self, name: str) -> list[str]:
        """The values of a header in the requests that had it."""
        return [value for r in self.requests if (value := r.headers.get(name)) is not None]
