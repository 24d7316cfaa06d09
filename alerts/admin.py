"""Alerts in the operator's console."""

from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.admin import ModelAdmin
from unfold.decorators import display

from alerts import services
from alerts.models import AlertEvent, AlertRule, Delivery
from gpufleet.common.admin import ReadOnlyAdmin, actor_of
from gpufleet.common.errors import InvalidInput


class RuleForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """The rule's fields, checked as the API checks them."""

    class Meta:
        model = AlertRule
        fields = [
            "name",
            "type",
            "threshold",
            "recovery_threshold",
            "for_seconds",
            "cluster",
            "tenant",
            "severity",
            "enabled",
        ]

    def clean(self) -> dict[str, Any]:
        """The recovery threshold lies on the healthy side."""
        values = super().clean() or {}
        kind = values.get("type", self.instance.type)
        if kind and values.get("threshold") is not None:
            try:
                services.check_recovery(
                    type=kind, threshold=values["threshold"], recovery_threshold=values.get("recovery_threshold")
                )
            except InvalidInput as error:
                self.add_error("recovery_threshold", error.detail)
        return values


@admin.register(AlertRule)
class AlertRuleAdmin(ModelAdmin):  # type: ignore[misc]  # unfold is untyped
    """Rules: their thresholds are edited here, their type and scope stay."""

    form = RuleForm
    list_display = ["name", "type", "threshold", "for_seconds", "severity", "enabled", "silenced_until"]
    list_filter = ["type", "severity", "enabled"]
    search_fields = ["name"]
    list_select_related = ["cluster", "tenant"]
    actions = ["enable", "disable"]

    def get_readonly_fields(self, request: HttpRequest, obj: AlertRule | None = None) -> list[str]:
        """The type and the scope of an existing rule are what its incidents are about."""
        return ["type", "cluster", "tenant"] if obj else []

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A rule is disabled, not deleted: its incidents speak of it."""
        return False

    def save_model(self, request: HttpRequest, obj: AlertRule, form: RuleForm, change: bool) -> None:
        """Through the services, as the API does."""
        if change:
            services.update_rule(rule_id=obj.pk, changes=form.cleaned_data, now=timezone.now())
        else:
            obj.pk = services.create_rule(**form.cleaned_data, now=timezone.now()).pk

    @admin.action(description="Enable", permissions=["change"])
    def enable(self, request: HttpRequest, rules: QuerySet[AlertRule]) -> None:
        """Turn the rules on."""
        self._switch(request, rules, enabled=True)

    @admin.action(description="Disable (resolves their incidents)", permissions=["change"])
    def disable(self, request: HttpRequest, rules: QuerySet[AlertRule]) -> None:
        """Turn the rules off."""
        self._switch(request, rules, enabled=False)

    def _switch(self, request: HttpRequest, rules: QuerySet[AlertRule], *, enabled: bool) -> None:
        count = services.switch_rules(rule_ids=[rule.pk for rule in rules], enabled=enabled, now=timezone.now())
        self.message_user(request, f"{count} rules are {'enabled' if enabled else 'disabled'}.")


@admin.register(AlertEvent)
class AlertEventAdmin(ReadOnlyAdmin):
    """Incidents; the one thing a person does to them is to acknowledge."""

    list_display = ["shown_status", "message", "rule", "fired_at", "resolved_at", "acknowledged_by"]
    list_display_links = ["message"]
    list_filter = ["status", "rule__type", "rule__severity"]
    search_fields = ["subject", "message"]
    list_select_related = ["rule"]
    actions = ["acknowledge"]

    @display(  # type: ignore[untyped-decorator]  # unfold is untyped
        description="Status",
        ordering="status",
        label={"firing": "danger", "pending": "warning", "resolved": "success"},
    )
    def shown_status(self, event: AlertEvent) -> str:
        """The status as a coloured word."""
        return event.status

    def has_acknowledge_permission(self, request: HttpRequest) -> bool:
        """Whoever may change incidents may acknowledge them."""
        return request.user.has_perm("alerts.change_alertevent")

    @admin.action(description="Acknowledge", permissions=["acknowledge"])
    def acknowledge(self, request: HttpRequest, events: QuerySet[AlertEvent]) -> None:
        """Note that the person has seen them."""
        ids = [event.pk for event in events]
        count = services.acknowledge_events(event_ids=ids, actor=actor_of(request), now=timezone.now())
        self.message_user(request, f"{count} incidents are acknowledged.")


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    """The outbox of messages."""

    list_display = ["event", "transition", "status", "attempts", "next_attempt_at"]
    list_filter = ["status"]
    list_select_related = ["event"]
