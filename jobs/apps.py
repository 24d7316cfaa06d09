from django.apps import AppConfig


class JobsConfig(AppConfig):
    """The queue, the scheduler, and the ledger of who held which GPU when."""

    name = "jobs"

    def ready(self) -> None:
        """Answer what the apps below ask about jobs."""
        import clusters.queries
        import tenants.queries
        from jobs import queries, serializers, services, tasks

        tenants.queries.tenant_workload.answer_with(queries.tenant_workload)
        tenants.queries.has_history.answer_with(queries.tenant_has_history)
        clusters.queries.cluster_workload.answer_with(queries.cluster_workload)
        clusters.queries.holders.answer_with(queries.holders)
        clusters.queries.held_gpu_ids.answer_with(queries.held_gpu_ids)
        clusters.queries.sold_hours.answer_with(queries.sold_hours)
        clusters.queries.count_running_jobs.answer_with(queries.count_running_jobs)
        clusters.queries.recent_jobs.answer_with(serializers.recent_jobs)
        services.doorbell.answer_with(tasks.ring)
