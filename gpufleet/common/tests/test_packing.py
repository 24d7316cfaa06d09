import gzip
import tracemalloc
from collections.abc import Callable

import cramjam
import pytest

from gpufleet.common.packing import MOST_MEMBERS, TooMuch, unpack


def zstd(body: bytes) -> bytes:
    return bytes(cramjam.zstd.compress(body))


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("zstd", zstd)])
def test_no_more_is_unpacked_than_the_limit(encoding: str, pack: Callable[[bytes], bytes]) -> None:
    assert unpack(pack(b"x" * 1000), encoding, limit=1000) == b"x" * 1000
    bomb = pack(b"x" * 64_000_000)
    tracemalloc.start()
    try:
        with pytest.raises(TooMuch):
            unpack(bomb, encoding, limit=1000)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_the_members_of_a_gzip_are_one_body_and_not_without_number() -> None:
    member = gzip.compress(b"x")
    assert unpack(member * MOST_MEMBERS, "gzip", limit=1000) == b"x" * MOST_MEMBERS
    with pytest.raises(ValueError, match="more than 100 members"):
        unpack(member * (MOST_MEMBERS + 1), "gzip", limit=1000)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_nothing_at_all_is_no_packed_body(encoding: str) -> None:
    with pytest.raises(ValueError, match="cut off"):
        unpack(b"", encoding, limit=1000)
