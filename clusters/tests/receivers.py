"""A remote-write receiver of our own, which decodes by the specification and not by our encoder."""

import struct
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cramjam


def fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message."""
    place = 0

    def varint() -> int:
        nonlocal place
        number = shift = 0
        while True:
            byte = message[place]
            place += 1
            number |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return number

    while place < len(message):
        key = varint()
        if key & 7 == 0:
            yield key >> 3, varint()
        elif key & 7 == 1:
            yield key >> 3, struct.unpack("<d", message[place : place + 8])[0]
            place += 8
        else:
            length = varint()
            yield key >> 3, message[place : place + length]
            place += length


def decoded(body: bytes) -> dict[tuple[tuple[str, str], ...], list[tuple[int, float]]]:
    """By labels, the samples as (ms, value)."""
    found = {}
    for _, series in fields(bytes(cramjam.snappy.decompress_raw(body))):
        parts = list(fields(series))
        labels = [tuple(text.decode() for _, text in fields(part)) for number, part in parts if number == 1]
        samples = [dict(fields(part)) for number, part in parts if number == 2]
        assert labels == sorted(labels)
        found[tuple(labels)] = [(sample[2], sample[1]) for sample in samples]
    return found


class Receiver(ThreadingHTTPServer):
    """Keeps what it is sent, and answers with the next of ``answers``, or 204."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.answers: list[int] = []


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.headers.append(dict(self.headers))
        self.send_response(self.server.answers.pop(0) if self.server.answers else 204)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Quiet."""
