"""Standard Webhooks (https://www.standardwebhooks.com): how a receiver knows that a message is ours, and new."""

import base64
import binascii
import hashlib
import hmac
import secrets

PREFIX = "whsec_"
SECRET_BYTES = 32


def mint_secret() -> str:
    """A new signing secret, in the standard's form."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def is_secret(text: str) -> bool:
    """Whether it is a signing secret in the standard's form: ``whsec_`` and 24 to 64 bytes in base64."""
    try:
        return text.startswith(PREFIX) and 24 <= len(_key(text)) <= 64
    except binascii.Error:
        return False


def signature_headers(secret: str, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers; ``timestamp`` is in seconds since 1970. The same id in each try of one message."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    signature = base64.b64encode(hmac.new(_key(secret), signed, hashlib.sha256).digest()).decode()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{signature}",
    }


def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
