"""A load generator on one thread: keep-alive connections that each send a request, wait for its answer, and go on."""

import re
import selectors
import socket
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from json import dumps, loads


@dataclass(frozen=True)
class Load:
    """Answers a second, and how long one took in milliseconds; refusals are none."""

    per_s: float
    p50_ms: float
    p99_ms: float


class _Connection:
    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.began = 0.0

    def send(self, request: bytes) -> None:
        self.began = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> bytes:
        """The whole answer; its status line."""
        answer = b""
        while True:
            piece = self.socket.recv(65_536)
            if not piece:
                raise ConnectionError("the server hung up")
            answer += piece
            head, end, body = answer.partition(b"\r\n\r\n")
            if end and len(body) >= _length_of(head):
                return head.split(b"\r\n", 1)[0]


def _length_of(head: bytes) -> int:
    found = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    return int(found[1]) if found else 0


def drive(address: tuple[str, int], requests: Iterator[bytes], *, connections: int, seconds: float) -> Load:
    """Send requests for so long. Raises ``RuntimeError`` at an answer that is not 2xx."""
    poll = selectors.DefaultSelector()
    for _ in range(connections):
        connection = _Connection(address)
        poll.register(connection.socket, selectors.EVENT_READ, connection)
        connection.send(next(requests))
    took: list[float] = []
    began = time.perf_counter()
    while (now := time.perf_counter()) < began + seconds:
        for key, _ in poll.select(0.1):
            connection = key.data
            status = connection.receive()
            if not status.startswith(b"HTTP/1.1 2"):
                raise RuntimeError(f"refused: {status.decode()}")
            took.append(time.perf_counter() - connection.began)
            connection.send(next(requests))
    for key in list(poll.get_map().values()):
        key.data.receive()
        key.data.socket.close()
    cuts = statistics.quantiles(took, n=100)
    return Load(len(took) / (now - began), 1000 * cuts[49], 1000 * cuts[98])


def post(path: str, body: bytes, headers: str = "") -> bytes:
    """A whole HTTP request."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    return head.encode() + body


def main(make: Callable[[dict[str, object]], Iterator[bytes]]) -> None:
    """In a process of its own: the order as JSON on the command line, the load as JSON on the way out."""
    order = loads(sys.argv[1])
    load = drive(
        (order["host"], order["port"]), make(order), connections=order["connections"], seconds=order["seconds"]
    )
    print(dumps(load.__dict__))
