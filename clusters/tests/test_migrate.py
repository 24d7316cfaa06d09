"""``migrate`` where samples have a database of their own, named in the environment as an installation names it."""

import os
import subprocess
import sys

import psycopg
import pytest

from clusters.tests.databases import empty_databases
from gpufleet.common.tests.processes import database_url

OF_SAMPLES = {
    "clusters_metricday",
    "clusters_metricfleetday",
    "clusters_metricframe",
    "clusters_metrichour",
    "clusters_metriclate",
    "clusters_metricoutbox",
    "clusters_metricrollup",
}
TABLES = "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace"


def tables(suffix: str) -> set[str]:
    with psycopg.connect(database_url(suffix)) as database:
        return {name for (name,) in database.execute(TABLES)}


def migrate(*arguments: str) -> None:
    addresses = {"DATABASE_URL": database_url("_main"), "METRICS_DATABASE_URL": database_url("_metrics")}
    command = [sys.executable, "manage.py", "migrate", "--verbosity", "0", *arguments]
    subprocess.run(command, env={**os.environ, **addresses}, check=True)


@pytest.mark.usefixtures("django_db_setup")
def test_samples_alone_get_tables_in_their_database_and_both_are_migrated() -> None:
    with empty_databases("_main", "_metrics"):
        migrate()
        assert OF_SAMPLES | {"clusters_gpu", "billing_invoice"} < tables("_main")
        assert tables("_metrics") == OF_SAMPLES | {"django_migrations"}
        migrate("--database", "samples", "clusters", "zero")
        assert tables("_metrics") == {"django_migrations"}
        assert tables("_main") > OF_SAMPLES
