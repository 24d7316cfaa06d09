"""Request bodies: JSON as RFC 8259 has it and as PostgreSQL can store it."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from django.conf import settings
from rest_framework.exceptions import ParseError, UnsupportedMediaType
from rest_framework.parsers import JSONParser

from gpufleet.common.errors import TooLarge
from gpufleet.common.packing import TooMuch, UnknownEncoding, unpack

MAX_DEPTH = 32


class StrictJSONParser(JSONParser):
    """JSON in UTF-8, at most 32 levels deep; Django itself holds bodies to ``DATA_UPLOAD_MAX_MEMORY_SIZE``.

    No NaN or Infinity (also not by overflow, such as 1e999), no name twice in one object, no NUL characters and
    no lone surrogates, which no UTF-8 database takes.
    """

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        """Decode the body. Raises ``ParseError`` (400) for what is not strict JSON."""
        try:
            return decode(stream.read())
        except (ValueError, RecursionError) as error:
            raise ParseError(f"The body is not valid JSON: {error}.") from error


class PackedJSONParser(StrictJSONParser):
    """As above, of bodies that may be packed with gzip or zstd, and unpack to no more than they might have been plain.

    It leaves the unpacked bytes at the request as ``unpacked_body``.
    """

    def parse(self, stream: Any, media_type: str | None = None, parser_context: Mapping[str, Any] | None = None) -> Any:
        """Unpack and decode. Raises ``UnsupportedMediaType`` (415), ``TooLarge`` (413) and ``ParseError`` (400)."""
        request = (parser_context or {})["request"]
        limit = settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        try:
            raw = unpack(stream.read(), request.headers.get("Content-Encoding", ""), limit=limit)
        except UnknownEncoding as error:
            raise UnsupportedMediaType(request.content_type, f"The body can't be read: {error}.") from error
        except TooMuch as error:
            raise TooLarge(f"The body unpacks to more than {limit:,} bytes.", max_bytes=limit) from error
        except ValueError as error:
            raise ParseError(f"The body can't be unpacked: {error}.") from error
        request.unpacked_body = raw
        return super().parse(BytesIO(raw), media_type, parser_context)


def decode(raw: bytes) -> Any:
    """Decode strict JSON. Raises ``ValueError``, or ``RecursionError`` when it is absurdly deep."""
    unfit: list[_Unfit] = []

    def refuse(reason: str) -> _Unfit:
        unfit.append(_Unfit(reason))
        return unfit[-1]

    def finite(text: str) -> float | _Unfit:
        number = float(text)
        return refuse("a number is out of range") if math.isinf(number) else number

    data = json.loads(
        raw.decode("utf-8"),
        parse_constant=lambda name: refuse(f"{name} is not a JSON number"),
        parse_float=finite,
        object_pairs_hook=_unique_names,
    )
    if unfit:  # Kept until here, where it can be said in which of thousands of samples it stands.
        raise ValueError(f"{unfit[0].reason}, at #{_pointer_to(unfit[0], data)}")
    # Only escapes can bring a NUL or a lone surrogate, so only bodies that have escapes are searched for them.
    _check(data, depth=0, characters=b"\\u" in raw)
    return data


@dataclass(frozen=True, slots=True, eq=False)
class _Unfit:
    """A number that JSON has not, where it stood."""

    reason: str


def _pointer_to(sought: _Unfit, data: Any) -> str | None:
    """The JSON pointer to it below ``data``, or None."""
    if data is sought:
        return ""
    inner = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for name, value in inner:
        below = _pointer_to(sought, value)
        if below is not None:
            return f"/{str(name).replace('~', '~0').replace('/', '~1')}{below}"
    return None


def _unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name stands twice in one object")
    return members


def _check(data: Any, *, depth: int, characters: bool) -> None:
    if characters and isinstance(data, str):
        _check_text(data)
    if not isinstance(data, dict | list):
        return
    if depth >= MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    for inner in data.values() if isinstance(data, dict) else data:
        if characters or isinstance(inner, dict | list):
            _check(inner, depth=depth + 1, characters=characters)
    if characters and isinstance(data, dict):
        for name in data:
            _check_text(name)


def _check_text(text: str) -> None:
    if "\x00" in text:
        raise ValueError("a string holds a NUL character")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("a string holds a lone surrogate") from error
