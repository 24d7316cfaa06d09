"""What the floor needs to know of whoever sent a request; ``tenants.permissions.Caller`` is the whole of it."""

from typing import Protocol, cast

from django.http import HttpRequest
from rest_framework.request import Request


class Sender(Protocol):
    """An authenticated sender."""

    @property
    def actor(self) -> str:
        """Its name in logs and audit rows."""

    @property
    def key_id(self) -> int | None:
        """The key it showed, or None for a visitor without one."""


def sender_of(request: HttpRequest | Request) -> Sender | None:
    """The sender, or None when authentication has not found one."""
    return cast("Sender | None", getattr(request, "auth", None))


def actor_of(request: HttpRequest | Request) -> str:
    """The sender's name in logs and audit rows."""
    sender = sender_of(request)
    return "anonymous" if sender is None else sender.actor


def person_of(request: HttpRequest) -> str:
    """How audit rows name the person behind a page of the console."""
    return f"user:{request.user.get_username()}"
