"""Every event carries the transaction that wrote it, so that the scheduler finds what is new since it last looked."""

from django.db import migrations

# Old rows stay empty: nobody who looks for what is new asks for them. A column without a default is added at once.
ADD = """
ALTER TABLE jobs_jobevent ADD COLUMN xact xid8;
ALTER TABLE jobs_jobevent ALTER COLUMN xact SET DEFAULT pg_current_xact_id();
"""


class Migration(migrations.Migration):
    atomic = False
    dependencies = [
        ("jobs", "0010_start_estimates"),
    ]

    operations = [
        migrations.RunSQL(ADD, "ALTER TABLE jobs_jobevent DROP COLUMN xact"),
        migrations.RunSQL(
            "CREATE INDEX CONCURRENTLY job_event_by_transaction ON jobs_jobevent (xact) WHERE xact IS NOT NULL",
            "DROP INDEX job_event_by_transaction",
        ),
    ]
