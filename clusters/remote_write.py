"""The Prometheus remote-write protocol, version 1: snappy-compressed protobuf. Pure.

https://prometheus.io/docs/specs/prw/remote_write_spec/ names the messages: a WriteRequest holds TimeSeries (1), each
with Labels (1: name 1, value 2) in the order of their names and Samples (2: value 1 as a double, timestamp 2 in ms).
"""

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import cramjam

HEADERS: Final = {
    "Content-Type": "application/x-protobuf",
    "Content-Encoding": "snappy",
    "X-Prometheus-Remote-Write-Version": "0.1.0",
    "User-Agent": "gpufleet",
}
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND: Final = timedelta(milliseconds=1)


@dataclass(frozen=True, slots=True)
class Series:
    """Samples of one name and set of labels, oldest first."""

    name: str
    labels: Mapping[str, str]
    samples: list[tuple[datetime, float]]


def encode(series: Iterable[Series]) -> bytes:
    """The body of a request."""
    message = b"".join(_field(1, _series(one)) for one in series)
    return bytes(cramjam.snappy.compress_raw(message))


def _series(one: Series) -> bytes:
    labels = sorted({"__name__": one.name, **one.labels}.items())
    parts = [_field(1, _field(1, name.encode()) + _field(2, value.encode())) for name, value in labels if value]
    return b"".join(parts + [_field(2, _sample(at, value)) for at, value in one.samples])


def _sample(at: datetime, value: float) -> bytes:
    """A double is wire type 1, a number 0."""
    return b"\x09" + struct.pack("<d", value) + b"\x10" + _varint((at - EPOCH) // MILLISECOND)


def _field(number: int, content: bytes) -> bytes:
    """Anything with a length is wire type 2."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)
    return bytes(found)
