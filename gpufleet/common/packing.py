"""Packed request bodies: gzip and zstd, unpacked to a limit and not a byte further. Pure."""

import zlib

import cramjam

ENCODINGS = ("gzip", "zstd")
GZIP = 16 + zlib.MAX_WBITS
# A gzip file may have several members. What follows each is copied, so that very many would take a minute.
MOST_MEMBERS = 100


class UnknownEncoding(ValueError):
    """The body is packed in a way that is not taken."""


class TooMuch(ValueError):
    """The body unpacks to more than the limit."""


def unpack(raw: bytes, encoding: str, *, limit: int) -> bytes:
    """The body as it was before a ``Content-Encoding``; ``identity`` or nothing: as it is.

    Raises ``UnknownEncoding``, ``TooMuch`` beyond ``limit`` bytes, and ``ValueError`` for what is broken.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return raw
    if encoding == "gzip":
        return _gunzip(raw, limit)
    if encoding == "zstd":
        return _unzstd(raw, limit)
    raise UnknownEncoding(f"a body may be packed with {' or '.join(ENCODINGS)}, and not with {encoding[:40]!r}")


def _gunzip(raw: bytes, limit: int) -> bytes:
    unpacked = b""
    for _ in range(MOST_MEMBERS):
        member = zlib.decompressobj(GZIP)
        try:
            unpacked += member.decompress(raw, limit + 1 - len(unpacked))
        except zlib.error as error:
            raise ValueError("it is no gzip") from error
        if len(unpacked) > limit:
            raise TooMuch
        if not member.eof:
            raise ValueError("the gzip is cut off")
        raw = member.unused_data
        if not raw:
            return unpacked
    raise ValueError(f"the gzip has more than {MOST_MEMBERS} members")


def _unzstd(raw: bytes, limit: int) -> bytes:
    space = bytearray(min(limit, max(64 * len(raw), 65_536)))
    while True:
        try:
            return bytes(memoryview(space)[: cramjam.zstd.decompress_into(raw, space)])
        except cramjam.DecompressionError as error:
            if "whole buffer" not in str(error):
                raise ValueError("it is no zstd, or it is cut off") from error
        if len(space) == limit:
            raise TooMuch
        space = bytearray(limit)
