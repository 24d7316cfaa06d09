"""What the admin pages of all apps share."""

from collections.abc import Iterable
from typing import Any

from django.contrib import messages
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from gpufleet.common.errors import DomainError


class ReadOnlyAdmin(ModelAdmin):  # type: ignore[misc]  # unfold is untyped
    """Rows that only services write: ledger, events, outboxes. People look; actions go through services."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody adds one by hand."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody edits one by hand."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes one by hand."""
        return False


def actor_of(request: HttpRequest) -> str:
    """How audit rows name the person behind an admin request."""
    return f"user:{request.user.get_username()}"


def report(request: HttpRequest, done: str, refusals: Iterable[DomainError]) -> None:
    """Say what an action did, and why the rest was refused."""
    messages.success(request, done)
    for refusal in refusals:
        messages.error(request, refusal.detail)
