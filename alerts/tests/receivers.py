"""Real receivers that behave well or badly: HTTP servers on the loopback interface, a connection a thread."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Received:
    """One request as it arrived."""

    head: str
    body: bytes

    @property
    def headers(self) -> dict[str, str]:
        """By lower-case name."""
        lines = self.head.split("\r\n")[1:]
        return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


@dataclass
class Receiver:
    """Where it listens, and what it got."""

    port: int
    received: list[Received] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its address, with a path and a query."""
        return f"http://127.0.0.1:{self.port}/hook?to=ops"


Manners = Callable[[socket.socket, threading.Event], None]


def answer(text: str) -> Manners:
    """Say this after each request, and hang up."""
    return lambda connection, closing: connection.sendall(text.encode())


def ok(connection: socket.socket, closing: threading.Event) -> None:
    """A well-behaved receiver."""
    connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")


def hang(connection: socket.socket, closing: threading.Event) -> None:
    """Take the request and say nothing."""
    closing.wait()


def trickle(connection: socket.socket, closing: threading.Event) -> None:
    """A byte now and then, for ever: no single read waits for long."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
    while not closing.wait(0.05):
        connection.sendall(b"x")


def lie(connection: socket.socket, closing: threading.Event) -> None:
    """Promise a gigabyte and send none of it."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
    closing.wait()


def redirect_to(url: str) -> Manners:
    """Send it elsewhere."""
    return answer(f"HTTP/1.1 307 Temporary Redirect\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n")


@contextmanager
def receiver(manners: Manners = ok, *, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """A receiver with these manners, until the end of the block."""
    closing = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        here = Receiver(server.getsockname()[1])
        threading.Thread(target=_accept, args=(server, here, manners, closing, tls), daemon=True).start()
        try:
            yield here
        finally:
            closing.set()
            server.shutdown(socket.SHUT_RDWR)


def _accept(
    server: socket.socket, here: Receiver, manners: Manners, closing: threading.Event, tls: ssl.SSLContext | None
) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        if tls is not None:
            try:
                connection = tls.wrap_socket(connection, server_side=True)
            except OSError:
                continue  # The other side did not like the certificate.
        threading.Thread(target=_serve, args=(connection, here, manners, closing), daemon=True).start()


def _serve(connection: socket.socket, here: Receiver, manners: Manners, closing: threading.Event) -> None:
    with connection:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = connection.recv(65536)
            if not piece:
                return
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        request = Received(head.decode(), body)
        while len(request.body) < int(request.headers.get("content-length", 0)):
            request.body += connection.recv(65536)
        here.received.append(request)
        try:
            manners(connection, closing)
        except OSError:
            return  # It was cut off, as it deserves.
