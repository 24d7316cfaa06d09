"""API keys in the operator's console."""

from collections.abc import Sequence
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from unfold.decorators import display

from apikeys import services
from apikeys.models import ApiKey, Permission
from apikeys.services import IssuedKey
from gpufleet.common.admin import Answers, Question, ServiceAdmin, actor_of, asks, counted, said_of


def _of_keys(keys: Sequence[ApiKey]) -> list[str]:
    live = [key for key in keys if key.revoked_at is None]
    return [f"Revokes {counted(len(live), 'key')}. Whoever uses one is refused from the next request on, for good."]


REVOKE = Question("Revoke", _of_keys, ["revoked_at"], danger=True)


class KeyForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """What a person says of a new key."""

    permissions = forms.MultipleChoiceField(
        choices=Permission.choices, widget=forms.CheckboxSelectMultiple, initial=["read", "write"]
    )

    class Meta:
        model = ApiKey
        fields = ["label", "tenant", "permissions", "expires_at"]


@admin.register(ApiKey)
class ApiKeyAdmin(ServiceAdmin):
    """Keys are made and revoked here; they are never changed, never deleted and never shown a second time."""

    form = KeyForm
    list_display = ["label", "prefix", "kind", "tenant", "permissions", "shown_status", "last_used_at", "expires_at"]
    list_filter = ["kind", "tenant", ("revoked_at", admin.EmptyFieldListFilter)]
    list_select_related = ["tenant"]
    search_fields = ["label", "prefix"]
    actions = ["revoke"]
    secrets = ["digest"]

    @display(description="Status", label={"live": "success", "expired": "warning", "revoked": "danger"})  # type: ignore[untyped-decorator]  # unfold is untyped
    def shown_status(self, key: ApiKey) -> str:
        """Whether the API takes the key."""
        if key.revoked_at is not None:
            return "revoked"
        return "expired" if key.expires_at is not None and key.expires_at <= timezone.now() else "live"

    def get_fields(self, request: HttpRequest, obj: ApiKey | None = None) -> list[str]:
        """Four fields for a new key; everything but the digest for one that is looked at."""
        if obj is None:
            return list(KeyForm.Meta.fields)
        return [field.name for field in ApiKey._meta.fields if field.name not in ("id", "digest")]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: another key is made instead."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: the row stays for the audit."""
        return False

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Whoever may change keys may revoke them, which is the one change there is."""
        return request.user.has_perm("apikeys.change_apikey")

    def save_model(self, request: HttpRequest, obj: ApiKey, form: KeyForm, change: bool) -> None:
        """Through the service, as the API does."""
        values = form.cleaned_data
        issued = services.issue_key(
            label=values["label"],
            permissions=values["permissions"],
            tenant_id=values["tenant"].pk if values["tenant"] else None,
            expires_at=values["expires_at"],
            created_by=actor_of(request),
            now=timezone.now(),
        )
        obj.pk = issued.key.pk
        request.issued_key = issued  # type: ignore[attr-defined]  # for the answer to this very request

    def response_add(self, request: HttpRequest, obj: ApiKey, post_url_continue: str | None = None) -> HttpResponse:
        """The raw key as the answer itself: a message would have passed through a cookie or the session's row."""
        issued: IssuedKey = request.issued_key  # type: ignore[attr-defined]  # set by save_model
        context = {
            **self.admin_site.each_context(request),
            "title": "The new API key",
            "key": issued.key,
            "raw": issued.raw,
        }
        return TemplateResponse(request, "admin/apikeys/apikey/issued.html", context)

    def applies(self, action: str, row: ApiKey) -> bool:
        """Once."""
        return row.revoked_at is None

    @asks(REVOKE, description="Revoke", permission="revoke")
    def revoke(self, request: HttpRequest, keys: QuerySet[ApiKey], answers: Answers) -> None:
        """Refuse the keys from the next request on."""
        revoked = services.revoke_keys(key_ids=[key.pk for key in keys], now=timezone.now())
        self.message_user(request, f"{said_of(revoked, 'key')} revoked.", messages.SUCCESS)
