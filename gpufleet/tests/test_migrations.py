import pytest
from django.db import connection


@pytest.mark.django_db
def test_the_database_is_the_embedded_one_with_the_ledger_constraints() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT conname FROM pg_constraint WHERE contype = 'x'")
        names = {name for (name,) in cursor.fetchall()}
    assert {
        "gpu_held_by_one_job_at_a_time",
        "gpu_in_one_state_at_a_time",
        "job_waits_for_one_reason_at_a_time",
        "second_billed_once",
    } <= names
