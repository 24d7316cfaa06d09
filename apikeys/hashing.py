"""The form of a key, and nothing else: mint, check, digest. Pure.

A key is ``gfk_`` + 43 characters of 256 random bits + 6 characters of a checksum, all base62. The checksum lets
the API refuse a mistyped or truncated key without a look at the database, and lets secret scanners be sure
of a find (the idea is GitHub's token format of 2021). 256 random bits need no slow hash.
"""

import hashlib
import secrets
import string
import zlib
from dataclasses import dataclass

MARK = "gfk_"
ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
SECRET_LENGTH = 43
CHECKSUM_LENGTH = 6
PREFIX_LENGTH = len(MARK) + 8


@dataclass(frozen=True, slots=True)
class MintedKey:
    """A new key: the raw text, shown once, and what is stored of it."""

    raw: str
    prefix: str
    digest: str


def mint_key() -> MintedKey:
    """A new random key."""
    secret = "".join(secrets.choice(ALPHABET) for _ in range(SECRET_LENGTH))
    raw = f"{MARK}{secret}{checksum(secret)}"
    return MintedKey(raw=raw, prefix=raw[:PREFIX_LENGTH], digest=digest_of(raw))


def checksum(secret: str) -> str:
    """CRC-32 of the secret in base62, six characters."""
    number = zlib.crc32(secret.encode("ascii"))
    digits = []
    for _ in range(CHECKSUM_LENGTH):
        number, rest = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[rest])
    return "".join(reversed(digits))


def is_well_formed(raw: str) -> bool:
    """Whether the text could be a key of ours: mark, length, alphabet and checksum."""
    if len(raw) != len(MARK) + SECRET_LENGTH + CHECKSUM_LENGTH or not raw.startswith(MARK):
        return False
    body = raw[len(MARK) :]
    if not all(character in ALPHABET for character in body):
        return False
    return checksum(body[:SECRET_LENGTH]) == body[SECRET_LENGTH:]


def digest_of(raw: str) -> str:
    """SHA-256 of the raw key, in hexadecimal: what the database holds."""
    return hashlib.sha256(raw.encode("ascii")).hexdigest()
