"""Shapes of what agents are given to run, and of what they report, on the wire."""

from typing import Any

from rest_framework import serializers

from gpufleet.common.serializers import IdField, StrictSerializer
from jobs.models import RunState

LARGEST_CODE = 2**31 - 1


class AssignedGpuSerializer(serializers.Serializer[Any]):
    """A GPU that a job holds on the node."""

    gpu_index = serializers.IntegerField()
    uuid = serializers.CharField(allow_blank=True)


class AssignmentSerializer(serializers.Serializer[Any]):
    """A run of a job on the node."""

    run_id = serializers.IntegerField(help_text="Another one each time the job starts.")
    job_id = serializers.IntegerField()
    name = serializers.CharField()
    command = serializers.ListField(child=serializers.CharField(), allow_null=True, help_text="The argument list.")
    image = serializers.CharField(allow_blank=True)
    env = serializers.DictField(child=serializers.CharField(allow_blank=True))
    gpus = AssignedGpuSerializer(many=True)
    rank = serializers.IntegerField(help_text="The node's place among the job's nodes, from 0.")
    world_size = serializers.IntegerField(help_text="How many nodes the job runs on.")
    master_addr = serializers.CharField(help_text="Of the node of rank 0.")
    stop_by = serializers.DateTimeField(allow_null=True, help_text="It is being preempted, and is to end until then.")


class AssignmentsSerializer(serializers.Serializer[Any]):
    """What the node is to run."""

    version = serializers.CharField(help_text="Another one whenever something of this changes.")
    execution_enabled = serializers.BooleanField(help_text="Of the cluster; while it is off nothing is to be started.")
    accepts_new = serializers.BooleanField(help_text="False: the node is drained or in maintenance.")
    poll_after_s = serializers.FloatField(help_text="How long to wait before asking again.")
    runs = AssignmentSerializer(many=True)


class ReportInputSerializer(StrictSerializer):
    """What became of a run on the node."""

    job_id = IdField()
    run_id = IdField()
    state = serializers.ChoiceField(choices=RunState.choices)
    exit_code = serializers.IntegerField(
        min_value=-LARGEST_CODE,
        max_value=LARGEST_CODE,
        allow_null=True,
        required=False,
        help_text="Negative: the signal that ended it. Null: nobody saw it end.",
    )
    message = serializers.CharField(max_length=400, allow_blank=True, required=False)
    log_tail = serializers.CharField(
        max_length=100_000, allow_blank=True, trim_whitespace=False, required=False, help_text="Its end is kept."
    )


class RunSerializer(serializers.Serializer[Any]):
    """What a node's agent reported of a run."""

    run_id = serializers.IntegerField()
    job_id = serializers.IntegerField()
    node_id = serializers.IntegerField()
    hostname = serializers.CharField(source="node.hostname")
    rank = serializers.IntegerField()
    state = serializers.ChoiceField(choices=RunState.choices)
    exit_code = serializers.IntegerField(allow_null=True)
    message = serializers.CharField(allow_blank=True)
    log_tail = serializers.CharField(allow_blank=True)
    started_at = serializers.DateTimeField(allow_null=True)
    ended_at = serializers.DateTimeField(allow_null=True)
