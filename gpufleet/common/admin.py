"""What the admin pages of all apps share."""

from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from django.contrib import admin, messages
from django.db.models import Model
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from unfold.admin import ModelAdmin

from gpufleet.common.errors import DomainError
from gpufleet.common.models import IdempotentResponse


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


Action = Callable[[Any, HttpRequest, Any], HttpResponse | None]
_actions_of: dict[type[Model], list[tuple[str, Action]]] = {}


def action_on(model: type[Model], *, description: str, permission: str) -> Callable[[Action], Action]:
    """Add an action to the list of a lower app's model, whose own admin knows nothing of it. For whoever lacks the
    permission there is no such action."""

    def register(action: Action) -> Action:
        _actions_of.setdefault(model, []).append((permission, admin.action(description=description)(action)))
        return action

    return register


class ServiceAdmin(ModelAdmin):  # type: ignore[misc]  # unfold is untyped
    """Forms whose changes go through services; what a service refuses is a message, and nothing has changed."""

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """The model's own, and those that apps above have added."""
        actions: dict[str, Any] = super().get_actions(request)
        for permission, action in _actions_of.get(self.model, []):
            name = action.__name__
            if request.user.has_perm(permission):
                actions[name] = (action, name, getattr(action, "short_description", name))
        return actions

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Show the form again when the service says no."""
        try:
            response: HttpResponse = super().changeform_view(request, *args, **kwargs)
        except DomainError as refusal:
            messages.error(request, refusal.detail)
            return HttpResponseRedirect(request.get_full_path())
        return response


@admin.display(description="During (UTC)", ordering="during")
def shown_during(row: Any) -> str:
    """The time of a ledger's row, for reading: from when until when, to the second."""
    begin, end = row.during.lower, row.during.upper
    until = "now" if end is None else f"{end:%Y-%m-%d %H:%M:%S}"
    return f"{begin:%Y-%m-%d %H:%M:%S} – {until}"


def asked_once(show: Callable[[Any, Any], str]) -> Callable[[Any, Any], str]:
    """For a field of a row's page that takes queries: unfold asks for its contents several times."""

    @wraps(show)
    def shown(self: Any, row: Any) -> str:
        known: dict[str, str] = row.__dict__.setdefault("_shown", {})
        if show.__name__ not in known:
            known[show.__name__] = show(self, row)
        return known[show.__name__]

    return shown


def actor_of(request: HttpRequest) -> str:
    """How audit rows name the person behind an admin request."""
    return f"user:{request.user.get_username()}"


def report(request: HttpRequest, done: str, refusals: Iterable[DomainError]) -> None:
    """Say what an action did, and why the rest was refused."""
    messages.success(request, done)
    for refusal in refusals:
        messages.error(request, refusal.detail)


@admin.register(IdempotentResponse)
class IdempotentResponseAdmin(ReadOnlyAdmin):
    """The answers that a repeated request would get."""

    list_display = ["actor", "key", "status", "created_at"]
    list_filter = ["status"]
    search_fields = ["actor", "key"]
    ordering = ["-pk"]
