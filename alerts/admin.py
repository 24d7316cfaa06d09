"""Alerts in the operator's console."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.db.models import F, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from unfold.decorators import display
from unfold.widgets import UnfoldAdminTextInputWidget

from alerts import queries, services
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
from gpufleet.common.admin import (
    Answers,
    Question,
    ReadOnlyAdmin,
    ServiceAdmin,
    actor_of,
    asks,
    counted,
    said_of,
)
from gpufleet.common.asking import MayReasonForm, ReasonForm
from gpufleet.common.errors import InvalidInput


def _firing(rules: Sequence[AlertRule]) -> int:
    return AlertEvent.objects.filter(rule__in=rules, status=EventStatus.FIRING).count()


def _enabling(rules: Sequence[AlertRule]) -> list[str]:
    """What it means."""
    return [f"Enables {counted(len(rules), 'rule')}, to be evaluated within half a minute."]


def _disabling(rules: Sequence[AlertRule]) -> list[str]:
    """What fires under these rules is over."""
    firing = _firing(rules)
    ended = f"{said_of(firing, 'firing incident')} resolved" if firing else "None of their incidents fires"
    if not firing and len(rules) == 1:
        ended = "None of its incidents fires"
    return [f"Disables {counted(len(rules), 'rule')}. {ended}; nobody is told of new ones."]


ENABLE = Question("Enable", _enabling, ["enabled"])
DISABLE = Question("Disable", _disabling, ["enabled"], danger=True)


class SilenceForm(ReasonForm):
    """For how long, and why."""

    hours = forms.FloatField(
        min_value=0.25,
        max_value=services.LONGEST_SILENCE / timedelta(hours=1),
        initial=1,
        widget=UnfoldAdminTextInputWidget,
        help_text="From now; a week at most. It is told before it ends if something fires under it.",
    )


def _silencing(rules: Sequence[AlertRule]) -> list[str]:
    """What fires under these rules, and what it costs by the hour."""
    firing = _firing(rules)
    now = f"{firing} {'fires' if firing == 1 else 'fire'} now" if firing else "none fires now"
    return [f"Nobody is told of incidents of {counted(len(rules), 'rule')} until then; {now}. They are recorded."]


SILENCE = Question("Silence", _silencing, ["silenced_until", "silence_reason"], form=SilenceForm, danger=True)


def _ending_silence(rules: Sequence[AlertRule]) -> list[str]:
    """What fires is told."""
    firing = _firing(rules)
    told = f"{said_of(firing, 'incident')} firing" if firing else "None fires now"
    return [f"People are told again of incidents of {counted(len(rules), 'rule')}. {told}."]


def _acknowledging(events: Sequence[AlertEvent]) -> list[str]:
    """Who has seen them."""
    return [f"Says that you have seen {counted(len(events), 'incident')}. What was acknowledged before stays as it is."]


def _retrying(deliveries: Sequence[Delivery]) -> list[str]:
    """Dead ones alone."""
    dead = sum(row.status == DeliveryStatus.DEAD for row in deliveries)
    return [f"{said_of(dead, 'dead message')} tried again at once; the others are left alone."]


def _ending_maintenance(windows: Sequence[MaintenanceWindow]) -> list[str]:
    """What was kept quiet is told."""
    return [f"Ends {counted(len(windows), 'maintenance window')} now: people are told again of what happens there."]


END_SILENCE = Question("End the silence", _ending_silence, ["silenced_until"], form=MayReasonForm)
ACKNOWLEDGE = Question("Acknowledge", _acknowledging, ["acknowledged_at", "acknowledged_by"], form=MayReasonForm)
RETRY = Question("Try again", _retrying, ["status", "attempts"], form=MayReasonForm)
END_NOW = Question("End now", _ending_maintenance, ["ends_at"], form=MayReasonForm)


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
    actions = ["enable", "disable", "silence", "end_silence"]

    def get_readonly_fields(self, request: HttpRequest, obj: AlertRule | None = None) -> list[str]:
        """The type and the scope of an existing rule are what its incidents are about; a silence has its actions."""
        if obj is None:
            return []
        silence = ["silenced_until", "silenced_by", "silence_reason", "shown_silence_cost"]
        return ["type", "cluster", "tenant", "gpu_model", *(silence if obj.silenced_until else [])]

    @admin.display(description="Cost of the silence so far")
    def shown_silence_cost(self, rule: AlertRule) -> str:
        """What fires under the silence has cost since it began."""
        now = timezone.now()
        if rule.silenced_until is None or rule.silenced_until <= now:
            return "It is over."
        costs = queries.silence_costs([rule], now=now)[rule.pk]
        return " and ".join(f"{amount} {currency}" for amount, currency in costs) or "nothing"

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
        silent = row.silenced_until is not None and row.silenced_until > timezone.now()
        makes_sense = {"enable": not row.enabled, "disable": row.enabled, "end_silence": silent}
        return makes_sense.get(action, True)

    @asks(ENABLE, description="Enable", permission="change")
    def enable(self, request: HttpRequest, rules: QuerySet[AlertRule], answers: Answers) -> None:
        """Turn the rules on."""
        self._switch(request, rules, enabled=True)

    @asks(DISABLE, description="Disable", permission="change")
    def disable(self, request: HttpRequest, rules: QuerySet[AlertRule], answers: Answers) -> None:
        """Turn the rules off."""
        self._switch(request, rules, enabled=False)

    @asks(SILENCE, description="Silence", permission="change")
    def silence(self, request: HttpRequest, rules: QuerySet[AlertRule], answers: Answers) -> None:
        """Tell nobody for a while."""
        now = timezone.now()
        until, reason = now + timedelta(hours=answers["hours"]), answers["reason"]
        chosen = list(rules)
        for rule in chosen:
            services.silence_rule(rule_id=rule.pk, until=until, reason=reason, actor=actor_of(request), now=now)
        said = f"{said_of(len(chosen), 'rule')} silent until {until:%Y-%m-%d %H:%M} UTC."
        self.message_user(request, said, messages.SUCCESS)

    @asks(END_SILENCE, description="End the silence", permission="change")
    def end_silence(self, request: HttpRequest, rules: QuerySet[AlertRule], answers: Answers) -> None:
        """From now on people are told again."""
        for rule in rules:
            services.end_silence(rule_id=rule.pk, now=timezone.now())
        self.message_user(request, "The silence has ended.")

    def _switch(self, request: HttpRequest, rules: QuerySet[AlertRule], *, enabled: bool) -> None:
        count = services.switch_rules(rule_ids=[rule.pk for rule in rules], enabled=enabled, now=timezone.now())
        said = f"{said_of(count, 'rule')} {'enabled' if enabled else 'disabled'}."
        self.message_user(request, said, messages.SUCCESS)


@admin.register(AlertEvent)
class AlertEventAdmin(ReadOnlyAdmin):
    """Incidents, ranked by what they cost; the one thing a person does to them is to acknowledge."""

    list_display = ["shown_status", "message", "shown_cost", "rule", "fired_at", "resolved_at", "acknowledged_by"]
    list_display_links = ["message"]
    list_filter = ["status", "rule__type", "rule__severity", ("parent", admin.EmptyFieldListFilter)]
    search_fields = ["subject", "message"]
    list_select_related = ["rule"]
    ordering = [queries.COST_NOW, "status", "-pk"]
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
        """What it costs by the hour."""
        return "" if event.cost_per_hour is None else f"{event.cost_per_hour} {event.currency}"

    def has_acknowledge_permission(self, request: HttpRequest) -> bool:
        """Whoever may change incidents may acknowledge them."""
        return request.user.has_perm("alerts.change_alertevent")

    def applies(self, action: str, row: AlertEvent) -> bool:
        """Once."""
        return row.acknowledged_at is None

    @asks(ACKNOWLEDGE, description="Acknowledge", permission="acknowledge")
    def acknowledge(self, request: HttpRequest, events: QuerySet[AlertEvent], answers: Answers) -> None:
        """Note that the person has seen them."""
        ids = [event.pk for event in events]
        count = services.acknowledge_events(event_ids=ids, actor=actor_of(request), now=timezone.now())
        self.message_user(request, f"{said_of(count, 'incident')} acknowledged.", messages.SUCCESS)


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

    @asks(RETRY, description="Try dead letters again", permission="retry")
    def retry(self, request: HttpRequest, deliveries: QuerySet[Delivery], answers: Answers) -> None:
        """Give them their tries back."""
        count = services.retry_deliveries(delivery_ids=[row.pk for row in deliveries], now=timezone.now())
        self.message_user(request, f"{said_of(count, 'message')} tried again.", messages.SUCCESS)


@admin.register(Channel)
class ChannelAdmin(ReadOnlyAdmin):
    """Who is told. Channels are made through the API, by administrators' keys; what they hold is not shown here."""

    list_display = ["name", "kind", "min_severity", "cluster", "tenant", "gpu_model", "enabled"]
    list_filter = ["kind", "enabled"]
    list_select_related = ["cluster", "tenant"]
    exclude = secrets = ["target", "secret"]


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

    def applies(self, action: str, row: MaintenanceWindow) -> bool:
        """To what is not over."""
        return row.ends_at > timezone.now()

    def save_model(self, request: HttpRequest, obj: MaintenanceWindow, form: Any, change: bool) -> None:
        """Through the service, as the API does."""
        actor, now = actor_of(request), timezone.now()
        obj.pk = services.plan_maintenance(**form.cleaned_data, actor=actor, now=now).pk

    @asks(END_NOW, description="End now", permission="end")
    def end_now(self, request: HttpRequest, windows: QuerySet[MaintenanceWindow], answers: Answers) -> None:
        """From now on people are told again."""
        for window in windows:
            services.end_maintenance(window_id=window.pk, now=timezone.now())
        self.message_user(request, "The maintenance has ended.")
