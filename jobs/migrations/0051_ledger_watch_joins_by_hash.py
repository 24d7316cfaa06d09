from django.db import migrations

# The function keeps the plan of its first call in a session, which often sees no row at all: a nested loop, whose cost
# is the square of the rows of a later statement (90 ms of 108 for the 1,000 periods that a scheduler's piece closes).
HASH = "ALTER FUNCTION jobs_ledger_changed() SET enable_nestloop = off"
ANY_JOIN = "ALTER FUNCTION jobs_ledger_changed() RESET enable_nestloop"


class Migration(migrations.Migration):
    dependencies = [("jobs", "0050_agent_runs")]

    operations = [migrations.RunSQL(HASH, ANY_JOIN)]
