"""A Google Cloud Storage for tests, over HTTP on this machine, with faults on demand and a log.

`with Emulator() as service:` serves at `service.url`, which STORAGE_EMULATOR_HOST has to say;
`python -m tests.gcs_emulator BUCKET ...` serves until SIGTERM or Ctrl-C.
Over HTTP: POST /_faults (one fault or a list of them, the fields of `Fault`), DELETE /_faults,
GET /_log.
"""

import argparse
import signal
import socket
import struct
import sys
import threading
import time
from dataclasses import asdict, dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote

from tests.gcs_storage import Objects, Reply, Request, Storage, error_reply, json_reply


@dataclass
class Fault:
    """What happens to the next matching requests; without an effect they only use up the count."""

    method: str = ""  # "": any
    match: str = ""  # a part of path and query, decoded
    skip: int = 0  # matching requests to leave alone first
    count: int = 1  # requests to hit
    delay: float = 0  # seconds before the work
    status: int = 0  # answer this instead of doing the work; 0: what the work says
    reset: bool = False  # cut the connection instead of doing the work
    after: bool = False  # do the work first, then answer `status` or cut the connection
    duplicate: bool = False  # do the work twice, answer what the second says
    truncate: bool = False  # half of the body, then cut the connection
    shorten: bool = False  # half of the body, and its length says so: nobody can tell
    keep: int = 0  # only so many bytes of the request's body arrive; 0: all of them
    stale: bool = False  # a listing tells what there was when the fault was asked for
    state: Objects = field(default_factory=dict, repr=False)

    def meets(self, request: Request) -> bool:
        """Whether it hits this request; a hit is counted."""
        target = unquote(request.target)
        if self.method not in ("", request.method) or self.match not in target or not self.count:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.count -= 1
        return True


@dataclass(frozen=True)
class Served:
    """A line of the log."""

    method: str
    target: str  # path and query, decoded
    status: int  # as the client sees it; 0: the connection was cut
    span: str = ""  # Range or Content-Range of the request
    authorization: str = ""  # with which the client came


class Emulator:
    """The service until closed; without more words at a free port of 127.0.0.1."""

    def __init__(self, *buckets: str, host: str = "127.0.0.1", port: int = 0) -> None:
        self.storage = Storage()
        for bucket in buckets:
            self.storage.create_bucket(bucket)
        self.log: list[Served] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._server = _Server(self, host, port)
        self.url = f"http://{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def fail(self, **fault: Any) -> None:
        """Asks for a fault; the fields are those of `Fault`. The oldest that matches counts."""
        with self._lock:
            self._faults.append(Fault(**fault, state=self.storage.objects.copy()))

    def clear(self) -> None:
        """Forgets faults and log, not the objects."""
        with self._lock:
            self._faults.clear()
            self.log.clear()

    def served(self, method: str, match: str = "") -> list[int]:
        """Statuses of the requests of this method whose path or query has this part, in order."""
        with self._lock:
            return [x.status for x in self.log if x.method == method and match in x.target]

    def spans(self, method: str, match: str = "") -> list[str]:
        """Ranges that these requests named, in order."""
        with self._lock:
            return [x.span for x in self.log if x.method == method and match in x.target]

    def answer(self, request: Request) -> tuple[Reply, Fault]:
        """What to send, and how."""
        if request.path in ("/_faults", "/_log"):
            return self._control(request), Fault()
        with self._lock:
            fault = next((fault for fault in self._faults if fault.meets(request)), Fault())
        time.sleep(fault.delay)
        if fault.keep:
            request = replace(request, body=request.body[: fault.keep])
        if fault.stale:
            request = replace(request, listed=fault.state)
        reply = Reply(0)
        if fault.after or not (fault.status or fault.reset):
            reply = self.storage.answer(request)
            if fault.duplicate:
                reply = self.storage.answer(request)
        if fault.status:
            reply = error_reply(fault.status, "a fault on demand")
        seen = 0 if fault.reset else reply.status
        span = request.headers.get("Content-Range") or request.headers.get("Range", "")
        came = request.headers.get("Authorization", "")
        with self._lock:
            self.log.append(Served(request.method, unquote(request.target), seen, span, came))
        return reply, fault

    def _control(self, request: Request) -> Reply:
        if request.method == "POST":
            asked = request.json()
            for fault in asked if isinstance(asked, list) else [asked]:
                self.fail(**fault)
        elif request.method == "DELETE":
            self.clear()
        with self._lock:
            if request.path == "/_log":
                return json_reply([asdict(line) for line in self.log])
            left = [fault for fault in self._faults if fault.count]
            return json_reply([asdict(replace(fault, state={})) for fault in left])


class _Server(ThreadingHTTPServer):
    request_queue_size = 128  # clients that connect at once

    def __init__(self, emulator: Emulator, host: str, port: int) -> None:
        self.emulator = emulator
        self._open: set[socket.socket] = set()  # clients keep connections for later
        super().__init__((host, port), _Handler)

    def process_request(self, request: socket.socket, client_address: object) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        for connection in tuple(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue  # its client was quicker
        super().server_close()

    def handle_error(self, request: socket.socket, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # clients may leave when they like
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = Request(self.command, self.path, self.headers, body)
        reply, fault = self.server.emulator.answer(request)
        if fault.reset:
            self._reset()
            return
        body = reply.body[: len(reply.body) // 2] if fault.shorten else reply.body
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault.truncate else body)
        self.close_connection |= fault.truncate

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815  http.server's names

    def _reset(self) -> None:
        """Ends the connection with a reset, once the reading side is closed too."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, *_: object) -> None:
        """Says nothing: there is a log."""


def main() -> int:
    """Serves until SIGTERM or Ctrl-C; what the buckets hold is gone then."""
    parser = argparse.ArgumentParser(prog="python -m tests.gcs_emulator", description=main.__doc__)
    parser.add_argument("buckets", nargs="*", metavar="BUCKET", help="a bucket to begin with")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (%(default)s)")
    parser.add_argument("--port", type=int, default=0, help="its port; 0, the default: a free one")
    asked = parser.parse_args()
    # Taken from here, not in a handler: as a container's first process it would be ignored else.
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    with Emulator(*asked.buckets, host=asked.host, port=asked.port) as service:
        sys.stdout.write(f"export STORAGE_EMULATOR_HOST={service.url}\n")
        sys.stdout.flush()
        signal.sigwait(ends)
    return 0


if __name__ == "__main__":
    sys.exit(main())
