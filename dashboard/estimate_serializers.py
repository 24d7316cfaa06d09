"""How well starts are foretold, on the wire."""

from typing import Any

from rest_framework import serializers

from dashboard.queries import Estimates
from jobs.models import EstimateSource


class SourceScoreSerializer(serializers.Serializer[Any]):
    """How well one source foretold starts; its figures are as those of all."""

    said_by = serializers.ChoiceField(EstimateSource.choices, source="source")
    scored = serializers.IntegerField(source="score.scored")
    held = serializers.IntegerField(source="score.held")
    held_share = serializers.FloatField(source="score.held_share", allow_null=True)
    error_p50_s = serializers.FloatField(source="score.error_p50_s", allow_null=True)
    error_p90_s = serializers.FloatField(source="score.error_p90_s", allow_null=True)


class EstimatesSerializer(serializers.Serializer[Any]):
    """Start estimates that were made in the window, held against what happened."""

    window_from = serializers.DateTimeField(source="start")
    window_to = serializers.DateTimeField(source="end")
    made = serializers.IntegerField(help_text="By the scheduler, by explanations and by what-if answers.")
    scored = serializers.IntegerField(source="score.scored", help_text="Their jobs have started since.")
    held = serializers.IntegerField(
        source="score.held", help_text="Of these: started no later than a minute after what was said."
    )
    held_share = serializers.FloatField(source="score.held_share", allow_null=True, help_text="From 0 to 1.")
    error_p50_s = serializers.FloatField(source="score.error_p50_s", allow_null=True, help_text="Early or late alike.")
    error_p90_s = serializers.FloatField(source="score.error_p90_s", allow_null=True)
    by_source = SourceScoreSerializer(many=True, help_text="The sources of which any were scored.")


def shown_estimates(report: Estimates) -> dict[str, Any]:
    """The report as the API shows it."""
    shown: dict[str, Any] = EstimatesSerializer(report).data
    return shown
