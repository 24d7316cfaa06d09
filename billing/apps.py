from django.apps import AppConfig


class BillingConfig(AppConfig):
    """Rates, invoices, and the proof behind every cent."""

    name = "billing"

    def ready(self) -> None:
        """Answer what the jobs app asks about prices."""
        import jobs.queries
        from billing import queries

        jobs.queries.rate_book.answer_with(queries.rates_in_force)
        jobs.queries.quotes.answer_with(queries.quotes)
        jobs.queries.job_costs.answer_with(queries.job_costs)
        jobs.queries.billed_until.answer_with(queries.billed_until)
        jobs.queries.price_changes.answer_with(queries.list_price_changes)
