"""How long reads of metrics take on 10,000 GPUs: one GPU's hour, its 90 days, the fleet's 90 days; and a rollup.

    make bench-series

It fills an empty database of its own: an hour of samples every ten seconds, and rollups of 90 days. The last line is
JSON, in milliseconds at the median, over the API's own views without the network.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gpufleet.settings")

from benchmarks.bench_ingest import GPUS, prepare

DAYS, REPEATS = 90, 15
HOUR, DAY = timedelta(hours=1), timedelta(days=1)

FRAMES = """
INSERT INTO clusters_metricframe
SELECT node.id, at, gpus.ids, gpus.some, gpus.some, gpus.same, gpus.some, gpus.some, NULL
FROM generate_series(%(start)s, %(end)s - interval '1 second', interval '10 seconds') AS at
CROSS JOIN clusters_node AS node
CROSS JOIN LATERAL (
    SELECT array_agg(id) AS ids, array_agg((id * 7919 + extract(epoch FROM at)::bigint * 31) %% 80000)::int[] AS some,
           array_agg(81559) AS same
    FROM clusters_gpu WHERE node_id = node.id
) AS gpus
"""
ROLLED = """
INSERT INTO {table}
SELECT gpu.id, at, 360, 360, 0, 99000, 18000000, 50000, 360, 0, 81559, 14000000, 40000, 360, 81559, 81559, 29361240,
       81559, 360, 30000, 80000, 21600000, 61000, 360, 60000, 700000, 144000000, 500000
FROM generate_series(%(start)s, %(end)s - %(step)s, %(step)s) AS at CROSS JOIN clusters_gpu AS gpu
"""
FLEET = """
INSERT INTO clusters_metricfleetday
SELECT at, cluster, 'model-' || model, 1e6, 7e5, 1e5
FROM generate_series(%(start)s, %(end)s - interval '1 day', interval '1 day') AS at,
     generate_series(1, 8) AS cluster, generate_series(1, 8) AS model
"""
SIZE = """
SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits
WHERE inhparent IN ('clusters_metrichour'::regclass, 'clusters_metricday'::regclass)
"""


def fill(now: datetime) -> None:
    """Samples of the last whole hour, and rollups of the days before it."""
    from django.db import connection

    from clusters.partitions import DAYS as DAY_TABLE
    from clusters.partitions import HOURS, ensure_partitions

    hour = now.replace(minute=0, second=0, microsecond=0) - HOUR
    start = hour.replace(hour=0) - DAYS * DAY
    for table in (HOURS, DAY_TABLE):
        ensure_partitions([(start + n * DAY).date() for n in range(DAYS + 1)], of=table)
    ensure_partitions([hour.date()])
    with connection.cursor() as cursor:
        cursor.execute(FRAMES, {"start": hour, "end": hour + HOUR})
        for name, step, end in (("hour", HOUR, hour), ("day", DAY, hour.replace(hour=0))):
            span: dict[str, Any] = {"start": start, "end": end, "step": step}
            cursor.execute(ROLLED.format(table=f"clusters_metric{name}"), span)
        cursor.execute(FLEET, {"start": start, "end": hour.replace(hour=0)})
        cursor.execute("INSERT INTO clusters_metricrollup (hours_until) VALUES (%s)", [hour])
        cursor.execute("VACUUM ANALYZE")


def median_ms(what: Callable[[int], Any]) -> float:
    """Of some calls, each for another GPU."""
    took = []
    for number in range(REPEATS):
        began = time.perf_counter()
        what(number)
        took.append(1000 * (time.perf_counter() - began))
    return round(statistics.median(took), 1)


def main() -> None:
    """Fill and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=GPUS)
    options = parser.parse_args()
    _, first = prepare(options.gpus)
    from django.conf import settings
    from django.db import connection
    from django.test import Client

    from apikeys.services import issue_key
    from clusters import queries, rollups

    settings.ALLOWED_HOSTS = ["testserver"]
    now = datetime.now(UTC)
    fill(now)
    raw = issue_key(label="reader", permissions=["read"], created_by="bench", now=now).raw
    client = Client(headers={"Authorization": f"Bearer {raw}"})
    hour = now.replace(minute=0, second=0, microsecond=0)

    def get(number: int, start: datetime, step: str) -> bytes:
        gpu = first + number * (options.gpus // REPEATS)
        window = {"from": start.isoformat(), "to": hour.isoformat(), "step": step}
        answer: Any = client.get(f"/api/clusters/gpus/{gpu}/metrics", window)
        assert answer.status_code == 200, answer.content
        return bytes(answer.getvalue())

    assert len(json.loads(get(0, hour - HOUR, "raw"))["points"]) == 360
    assert len(json.loads(get(0, hour - DAYS * DAY, "1h"))["points"]) == DAYS * 24
    with connection.cursor() as cursor:
        cursor.execute(SIZE)
        (size,) = cursor.fetchone()
    result = {
        "gpus": options.gpus,
        "hour_raw_ms": median_ms(lambda n: get(n, hour - HOUR, "raw")),
        "days_90_hourly_ms": median_ms(lambda n: get(n, hour - DAYS * DAY, "1h")),
        "days_90_daily_ms": median_ms(lambda n: get(n, hour - DAYS * DAY, "1d")),
        "fleet_90_days_ms": median_ms(lambda _: queries.sold_utilisation(start=hour - DAYS * DAY, end=hour)),
        "rollups_90_days_gb": round(float(size) / 1e9, 2),
    }
    began = time.perf_counter()
    assert rollups.roll_up(now=hour + 10 * HOUR) >= 1
    result["rollup_of_an_hour_s"] = round(time.perf_counter() - began, 1)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
