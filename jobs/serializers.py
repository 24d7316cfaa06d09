"""Shapes of jobs on the wire."""

from functools import cache
from typing import Any

from django.utils import timezone
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.request import Request

from gpufleet.common.serializers import IdField, StrictSerializer
from jobs import queries, services
from jobs.models import Job, JobStatus

MOST_GPUS = 100_000
MOST_JOBS = 1_000
LONGEST_MINUTES = 60 * 24 * 366
# What begins with a dash would be an option to whoever starts containers.
IMAGE = r"^[^\s-]\S*$"


class JobInputSerializer(StrictSerializer):
    """A job as a client submits it."""

    cluster_id = IdField()
    name = serializers.CharField(max_length=200)
    gpu_count = serializers.IntegerField(min_value=1, max_value=MOST_GPUS, required=False)
    gpu_type = serializers.CharField(
        max_length=300, allow_blank=True, required=False, help_text="A model or its beginning, or several: A100|H100."
    )
    priority = serializers.IntegerField(min_value=1, max_value=10, required=False, help_text="1 is the highest.")
    tenant_id = IdField(required=False, allow_null=True)
    submitted_by = serializers.CharField(max_length=200, allow_blank=True, required=False)
    estimated_duration_min = serializers.IntegerField(
        min_value=1, max_value=LONGEST_MINUTES, required=False, allow_null=True
    )
    command = serializers.ListField(
        child=serializers.CharField(max_length=4_096, allow_blank=True, trim_whitespace=False),
        min_length=1,
        max_length=200,
        required=False,
        allow_null=True,
        help_text="The argument list; never a shell string.",
    )
    image = serializers.RegexField(
        IMAGE,
        max_length=500,
        allow_blank=True,
        required=False,
        help_text="A container image's name.",
        error_messages={"invalid": "An image's name has no spaces, and does not begin with a dash."},
    )
    env = serializers.DictField(
        child=serializers.CharField(max_length=4_096, allow_blank=True, trim_whitespace=False), required=False
    )

    def validate_command(self, command: list[str] | None) -> list[str] | None:
        """Any argument may be empty but the program's name."""
        if command and not command[0]:
            blank = {0: ["This field may not be blank."]}
            raise serializers.ValidationError(blank, code="blank")  # type: ignore[arg-type]  # by place, as its lists do
        return command

    def validate_env(self, env: dict[str, str]) -> dict[str, str]:
        """Names that a process could not have are refused."""
        if len(env) > 200 or any(not name or len(name) > 256 or "=" in name for name in env):
            raise serializers.ValidationError("env has at most 200 names, of 1 to 256 characters without '='.")
        return env


class JobChangesSerializer(StrictSerializer):
    """What may be changed of a job that waits."""

    priority = serializers.IntegerField(min_value=1, max_value=10, help_text="1 is the highest.")


class JobSerializer(serializers.Serializer[Any]):
    """A job as it is shown, made of a ``JobReport``."""

    id = serializers.IntegerField(source="job.pk")
    cluster_id = serializers.IntegerField(source="job.cluster_id")
    tenant_id = serializers.IntegerField(source="job.tenant_id", allow_null=True)
    name = serializers.CharField(source="job.name")
    gpu_count = serializers.IntegerField(source="job.gpu_count")
    gpu_type = serializers.CharField(source="job.gpu_type", allow_blank=True)
    priority = serializers.IntegerField(source="job.priority")
    status = serializers.ChoiceField(source="job.status", choices=JobStatus.choices)
    block_reason = serializers.CharField(
        source="reason", allow_blank=True, help_text="Why it is held, or why it waits."
    )
    submitted_by = serializers.CharField(source="job.submitted_by", allow_blank=True)
    estimated_duration_min = serializers.IntegerField(source="job.estimated_duration_min", allow_null=True)
    command = serializers.ListField(source="job.command", child=serializers.CharField(), allow_null=True)
    image = serializers.CharField(source="job.image", allow_blank=True)
    env = serializers.DictField(source="job.env", child=serializers.CharField(allow_blank=True))
    overdue = serializers.BooleanField(help_text="It runs, and is past its own estimate.")
    gpu_ids = serializers.ListField(child=serializers.IntegerField(), help_text="The GPUs it holds now.")
    cost = serializers.SerializerMethodField(help_text="So far; null where nothing it held has a price.")
    currency = serializers.SerializerMethodField(help_text="ISO 4217, of the cost.")
    claimed_at = serializers.DateTimeField(
        source="job.claimed_at", allow_null=True, help_text="It waits, and since then others are preempted for it."
    )
    preempt_at = serializers.DateTimeField(
        source="job.preempt_at", allow_null=True, help_text="It runs, and must give its GPUs back then; see its events."
    )
    preempt_for = serializers.IntegerField(
        source="job.preempt_for", allow_null=True, help_text="The id of the job that it is preempted for."
    )
    submitted_at = serializers.DateTimeField(source="job.submitted_at")
    started_at = serializers.DateTimeField(source="job.started_at", allow_null=True)
    ended_at = serializers.DateTimeField(source="job.ended_at", allow_null=True)

    def get_cost(self, report: queries.JobReport) -> str | None:
        """A decimal string in the currency's minor unit."""
        return None if report.cost is None else str(report.cost.amount)

    def get_currency(self, report: queries.JobReport) -> str | None:
        """The cost's currency."""
        return None if report.cost is None else report.cost.currency


class QuoteSerializer(serializers.Serializer[Any]):
    """What a job will cost if it runs as long as estimated, by the rates of its submission."""

    lowest = serializers.SerializerMethodField(help_text="Of the models that it may be given.")
    highest = serializers.SerializerMethodField()
    currency = serializers.CharField(allow_null=True, help_text="ISO 4217.")
    unpriced_models = serializers.ListField(
        child=serializers.CharField(), help_text="It may be given these, and they have no rate."
    )

    def get_lowest(self, quote: queries.Quote) -> str | None:
        """A decimal string in the currency's minor unit; null where no model has a rate."""
        return None if quote.lowest is None else str(quote.lowest)

    def get_highest(self, quote: queries.Quote) -> str | None:
        """As ``lowest``."""
        return None if quote.highest is None else str(quote.highest)


class JobDetailSerializer(JobSerializer):
    """One job, with what it will cost."""

    quote = serializers.SerializerMethodField(help_text="Null where there is no estimated_duration_min.")

    @extend_schema_field(QuoteSerializer(allow_null=True))
    def get_quote(self, report: queries.JobReport) -> dict[str, Any] | None:
        """By the function that prices the invoice."""
        quote = queries.quote_of(report.job)
        return None if quote is None else QuoteSerializer(quote).data


class StatusInputSerializer(StrictSerializer):
    """A move that a client asks for; only the scheduler starts jobs."""

    status = serializers.ChoiceField(choices=JobStatus.choices)
    block_reason = serializers.CharField(
        max_length=400, required=False, help_text="Required when status is blocked; the reason of any other move."
    )


class JobEventSerializer(serializers.Serializer[Any]):
    """One change of a job's state."""

    id = serializers.IntegerField()
    at = serializers.DateTimeField()
    from_status = serializers.CharField(allow_blank=True, help_text="Empty: the job was submitted.")
    to_status = serializers.ChoiceField(choices=JobStatus.choices)
    actor = serializers.CharField()
    reason = serializers.CharField(allow_blank=True)


class BlockerSerializer(serializers.Serializer[Any]):
    """One thing that keeps a job from its start."""

    code = serializers.CharField()
    text = serializers.CharField()
    figures = serializers.DictField()


class RemedySerializer(serializers.Serializer[Any]):
    """A change of one thing with which the job would start now."""

    field = serializers.CharField(source="name")
    value = serializers.JSONField()
    text = serializers.CharField()


class HoldingSerializer(serializers.Serializer[Any]):
    """Who holds GPUs of a model that the job takes. No name: everybody whom the caller may not know of."""

    model = serializers.CharField()
    tenant_id = serializers.IntegerField(allow_null=True)
    tenant = serializers.CharField(allow_null=True)
    gpus = serializers.IntegerField()
    jobs = serializers.IntegerField()


class WaitedSerializer(serializers.Serializer[Any]):
    """How long the job has waited for one reason."""

    code = serializers.CharField()
    seconds = serializers.FloatField()


class ExplanationSerializer(serializers.Serializer[Any]):
    """Why a job waits, or why it went where it went."""

    job_id = serializers.IntegerField(source="job.pk")
    status = serializers.ChoiceField(source="job.status", choices=JobStatus.choices)
    summary = serializers.CharField(help_text="The binding constraint, or why it went where it went.")
    blockers = BlockerSerializer(source="prospect.blockers", many=True, help_text="All of them; the first one binds.")
    place = serializers.IntegerField(
        source="prospect.place", allow_null=True, help_text="In the queue of its cluster, from 1."
    )
    queued = serializers.IntegerField(source="prospect.queued", help_text="Jobs of the cluster that can't start now.")
    earliest_start = serializers.DateTimeField(
        source="prospect.earliest", allow_null=True, help_text="If nobody were ahead; null: nobody knows."
    )
    estimated_start = serializers.DateTimeField(
        source="prospect.estimated", allow_null=True, help_text="By the plan run forward; null: nobody knows."
    )
    running_without_estimate = serializers.IntegerField(source="prospect.without_estimate")
    would_start_now_with = RemedySerializer(source="prospect.remedies", many=True)
    holders = HoldingSerializer(many=True)
    waited = WaitedSerializer(many=True)
    placed_on = serializers.ListField(child=serializers.CharField(), help_text="Host names.")


def checked_jobs(request: Request) -> list[services.JobWish]:
    """The jobs of an array, after each one's checks. Raises ``ValidationError`` (400), with the places."""
    checks: serializers.ListSerializer[Any] = serializers.ListSerializer(
        data=request.data, child=JobInputSerializer(), allow_empty=False, max_length=MOST_JOBS
    )
    checks.is_valid(raise_exception=True)
    wishes: list[services.JobWish] = checks.validated_data
    return wishes


def show(*jobs: Job) -> list[dict[str, Any]]:
    """Jobs as the API shows them, with what they hold and cost now."""
    return [_shape(JobSerializer).to_representation(report) for report in queries.describe(jobs, now=timezone.now())]


def show_new(*jobs: Job) -> list[dict[str, Any]]:
    """Jobs that were submitted just now, as the API shows them."""
    return [_shape(JobSerializer).to_representation(report) for report in queries.describe_new(jobs)]


def show_in_detail(job: Job) -> dict[str, Any]:
    """One job as the API shows it, with its quote."""
    return _shape(JobDetailSerializer).to_representation(queries.describe([job], now=timezone.now())[0])


def show_new_in_detail(job: Job) -> dict[str, Any]:
    """The same of a job that was submitted just now."""
    return _shape(JobDetailSerializer).to_representation(queries.describe_new([job])[0])


@cache
def _shape(kind: type[JobSerializer]) -> JobSerializer:
    """One for all: to copy the fields for each job takes longer than to show it."""
    return kind()


def recent_jobs(cluster_id: int, tenant_id: int | None, limit: int) -> list[dict[str, Any]]:
    """The newest jobs of a cluster: the answer to ``clusters.recent_jobs``."""
    jobs = queries.list_jobs(of_tenant=tenant_id).filter(cluster_id=cluster_id)
    return show(*jobs.order_by("-pk")[:limit])
