"""Alerts in the operator's console."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from django import forms
from django.contrib import admin
from django.db.models import F, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.decorators import display

from alerts import services
from alerts.models import (
    AlertEvent,
    AlertRule,
    Channel,
    Delivery,
    DeliveryStatus,
    EventStatus,
    MaintenanceWindow,
    RuleEvaluation,
)
from gpufleet.common.admin import Answers, Question, ReadOnlyAdmin, ServiceAdmin, actor_of, asks, silently
from gpufleet.common.errors import InvalidInput


def _of_rules(rules: Sequence[AlertRule], verb: str, effect: str) -> list[str]:
    firing = AlertEvent.objects.filter(rule__in=rules, status=EventStatus.FIRING).count()
    return [f"{verb} {len(rules)} rules. {effect.format(firing=firing)}"]


ENABLE = Question(
    "Enable", partial(_of_rules, verb="Enables", effect="They are evaluated within half a minute."), ["enabled"]
)
DISABLE = Question(
    "Disable",
    partial(
        _of_rules, verb="Disables", effect="Their {firing} firing incidents are resolved; nobody is told of new ones."
    ),
    ["enabled"],
    danger=True,
)


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
            "gpu_model",
            "severity",
            "channels",
            "enabled",
        ]

    def clean(self) -> dict[str, Any]:
        """The recovery threshold lies on the healthy side, and the scope is one that the type has."""
        values = super().clean() or {}
        kind = values.get("type", self.instance.type)
        if kind and values.get("threshold") is not None:
            try:
                services.check_recovery(
                    type=kind, threshold=values["threshold"], recovery_threshold=values.get("recovery_threshold")
                )
            except InvalidInput as error:
                self.add_error("recovery_threshold", error.detail)
        if values.get("type"):
            self._check_scope(values)
        return values

    def _check_scope(self, values: dict[str, Any]) -> None:
        scope = {name: values.get(name) for name in ("cluster", "tenant")}
        try:
            services.check_scope(type=values["type"], **scope, gpu_model=values.get("gpu_model", ""))
        except InvalidInput as error:
            self.add_error("type", error.problems[0].detail)


@admin.register(AlertRule)
class AlertRuleAdmin(ServiceAdmin):
    """Rules: their thresholds are edited here, their type and scope stay."""

    form = RuleForm
    list_display = ["name", "type", "threshold", "for_seconds", "severity", "enabled", "silenced_until"]
    list_filter = ["type", "severity", "enabled"]
    search_fields = ["name"]
    list_select_related = ["cluster", "tenant"]
    actions = ["enable", "disable"]

    def get_readonly_fields(self, request: HttpRequest, obj: AlertRule | None = None) -> list[str]:
        """The type and the scope of an existing rule are what its incidents are about."""
        return ["type", "cluster", "tenant", "gpu_model"] if obj else []

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A rule is disabled, not deleted: its incidents speak of it."""
        return False

    def save_model(self, request: HttpRequest, obj: AlertRule, form: RuleForm, change: bool) -> None:
        """Through the services, as the API does."""
        if change:
            services.update_rule(rule_id=obj.pk, changes=form.cleaned_data, now=timezone.now())
        else:
            obj.pk = services.create_rule(**form.cleaned_data, now=timezone.now()).pk

    def applies(self, action: str, row: AlertRule) -> bool:
        """To what it is not already."""
        return row.enabled == (action == "disable")

    @asks(ENABLE, description="Enable", permission="change")
    def enable(self, request: HttpRequest, rules: QuerySet[AlertRule], answers: Answers) -> None:
        """Turn the rules on."""
        self._switch(request, rules, enabled=True)

    @asks(DISABLE, description="Disable (resolves their incidents)", permission="change")
    def disable(self, request: HttpRequest, rules: QuerySet[AlertRule], answers: Answers) -> None:
        """Turn the rules off."""
        self._switch(request, rules, enabled=False)

    def _switch(self, request: HttpRequest, rules: QuerySet[AlertRule], *, enabled: bool) -> None:
        count = services.switch_rules(rule_ids=[rule.pk for rule in rules], enabled=enabled, now=timezone.now())
        self.message_user(request, f"{count} rules are {'enabled' if enabled else 'disabled'}.")


@admin.register(AlertEvent)
class AlertEventAdmin(ReadOnlyAdmin):
    """Incidents; the one thing a person does to them is to acknowledge."""

    list_display = ["shown_status", "message", "shown_cost", "rule", "fired_at", "resolved_at", "acknowledged_by"]
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

    @display(description="An hour", ordering=F("cost_per_hour").desc(nulls_last=True))  # type: ignore[untyped-decorator]  # unfold is untyped
    def shown_cost(self, event: AlertEvent) -> str:
        """What it costs by the hour; the list is ranked by it with a click."""
        return "" if event.cost_per_hour is None else f"{event.cost_per_hour} {event.currency}"

    def has_acknowledge_permission(self, request: HttpRequest) -> bool:
        """Whoever may change incidents may acknowledge them."""
        return request.user.has_perm("alerts.change_alertevent")

    def applies(self, action: str, row: AlertEvent) -> bool:
        """Once."""
        return row.acknowledged_at is None

    @silently(["acknowledged_at", "acknowledged_by"], description="Acknowledge", permission="acknowledge")
    def acknowledge(self, request: HttpRequest, events: QuerySet[AlertEvent]) -> None:
        """Note that the person has seen them."""
        ids = [event.pk for event in events]
        count = services.acknowledge_events(event_ids=ids, actor=actor_of(request), now=timezone.now())
        self.message_user(request, f"{count} incidents are acknowledged.")


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin):
    """The outbox of messages; what is dead may be tried again."""

    list_display = ["rule", "channel", "kind", "shown_status", "attempts", "next_attempt_at", "last_error"]
    list_filter = ["status", "kind", "channel"]
    list_select_related = ["rule", "channel"]
    raw_id_fields = ["events"]
    actions = ["retry"]

    @display(  # type: ignore[untyped-decorator]  # unfold is untyped
        description="Status", ordering="status", label={"dead": "danger", "pending": "warning", "sent": "success"}
    )
    def shown_status(self, delivery: Delivery) -> str:
        """The status as a coloured word."""
        return delivery.status

    def has_retry_permission(self, request: HttpRequest) -> bool:
        """Whoever may change incidents may have their messages tried again."""
        return request.user.has_perm("alerts.change_alertevent")

    def applies(self, action: str, row: Delivery) -> bool:
        """To what is dead."""
        return row.status == DeliveryStatus.DEAD

    @silently(["status", "attempts"], description="Try dead letters again", permission="retry")
    def retry(self, request: HttpRequest, deliveries: QuerySet[Delivery]) -> None:
        """Give them their tries back."""
        count = services.retry_deliveries(delivery_ids=[row.pk for row in deliveries], now=timezone.now())
        self.message_user(request, f"{count} messages are tried again.")


@admin.register(Channel)
class ChannelAdmin(ReadOnlyAdmin):
    """Who is told. Channels are made through the API, by administrators' keys; what they hold is not shown here."""

    list_display = ["name", "kind", "min_severity", "cluster", "tenant", "enabled"]
    list_filter = ["kind", "enabled"]
    list_select_related = ["cluster", "tenant"]
    exclude = ["target", "secret"]


@admin.register(RuleEvaluation)
class RuleEvaluationAdmin(ReadOnlyAdmin):
    """What each rule saw last, missing data too."""

    list_display = ["rule", "evaluated_at", "subjects", "in_trouble", "missing"]
    list_select_related = ["rule"]
    ordering = ["-missing", "rule"]


@admin.register(MaintenanceWindow)
class MaintenanceWindowAdmin(ServiceAdmin):
    """Planned work is announced here, and ended early; it is not changed."""

    list_display = ["reason", "cluster", "node", "starts_at", "ends_at", "created_by"]
    list_select_related = ["cluster", "node"]
    fields = ["cluster", "node", "starts_at", "ends_at", "reason"]
    actions = ["end_now"]

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: another window is made instead."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: it says why nobody was told."""
        return False

    def has_end_permission(self, request: HttpRequest) -> bool:
        """Whoever may announce work may end it."""
        return request.user.has_perm("alerts.add_maintenancewindow")

    def save_model(self, request: HttpRequest, obj: MaintenanceWindow, form: Any, change: bool) -> None:
        """Through the service, as the API does."""
        actor, now = actor_of(request), timezone.now()
        obj.pk = services.plan_maintenance(**form.cleaned_data, actor=actor, now=now).pk

    @silently(["ends_at"], description="End now", permission="end")
    def end_now(self, request: HttpRequest, windows: QuerySet[MaintenanceWindow]) -> None:
        """From now on people are told again."""
        for window in windows:
            services.end_maintenance(window_id=window.pk, now=timezone.now())
        self.message_user(request, "The maintenance has ended.")
