import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apikeys.hashing import ALPHABET, MARK, checksum, digest_of, is_well_formed, mint_key


def test_a_minted_key_is_well_formed_and_known_by_its_prefix_and_digest() -> None:
    minted = mint_key()
    assert is_well_formed(minted.raw)
    assert minted.raw.startswith(minted.prefix)
    assert len(minted.prefix) == 12
    assert minted.digest == hashlib.sha256(minted.raw.encode()).hexdigest()


def test_no_two_keys_are_the_same() -> None:
    assert len({mint_key().raw for _ in range(200)}) == 200


def test_the_checksum_is_the_crc_in_base62() -> None:
    # CRC-32 of "123456789" is the well-known check value 0xCBF43926.
    number = 0
    for character in checksum("123456789"):
        number = number * 62 + ALPHABET.index(character)
    assert number == 0xCBF43926


@given(place=st.integers(min_value=len(MARK), max_value=52), other=st.sampled_from(ALPHABET))
def test_one_mistyped_character_is_noticed(place: int, other: str) -> None:
    raw = mint_key().raw
    mistyped = raw[:place] + other + raw[place + 1 :]
    assert is_well_formed(mistyped) == (mistyped == raw)


@pytest.mark.parametrize(
    "raw", ["", "gfk_", "gfk_" + "0" * 48, "gfk_" + "0" * 50, "xyz_" + "0" * 49, "é" * 53, "gfk_" + "é" * 49]
)
def test_what_is_no_key_is_refused_without_an_error(raw: str) -> None:
    assert not is_well_formed(raw)


def test_a_digest_does_not_show_the_key() -> None:
    raw = mint_key().raw
    assert raw[len(MARK) : 20] not in digest_of(raw)
