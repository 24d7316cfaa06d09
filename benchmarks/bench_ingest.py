"""Samples a second over HTTP, beside the floor, a plain contrast, and VictoriaMetrics.

    make bench-ingest                       # 10,000 GPUs, three repetitions, minutes
    VICTORIA_METRICS=/usr/bin/victoria-metrics make bench-ingest
    make bench-ingest-sustained             # ten minutes of batches of 100 with an Idempotency-Key each

One sample is one GPU's five values. All servers get the same samples, in turn, three times over; figures are medians.
gpufleet answers after the commit, with the key, the scope and each gpu_id checked, latest readings renewed, and a btree
on (node, time) that serves one GPU's series. `keyed` is the same with an Idempotency-Key on each batch, as our agent
sends it. The floor is a binary COPY of the same rows on one connection, no HTTP.
The last line is JSON, each member by batch size at the largest number of connections.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks.load import main as load_main
from benchmarks.load import post

GPUS, GPUS_A_NODE = 10_000, 8
BATCHES, CONNECTIONS = (8, 100, 1000), (1, 8, 32)
SUSTAINED_BATCH = 100
CONTRAST = """
CREATE TABLE IF NOT EXISTS contrast_reading (
    id bigserial PRIMARY KEY, gpu_id bigint NOT NULL, recorded_at timestamptz NOT NULL, utilization_pct float8,
    memory_used_mb integer, memory_total_mb integer, temperature_c float8, power_draw_w float8, xid integer);
CREATE INDEX IF NOT EXISTS contrast_by_gpu ON contrast_reading (gpu_id, recorded_at)
"""
STAMP = b"@@@@"
NS_STAMP = b"####"


def figures(chance: random.Random) -> dict[str, float]:
    """What a busy GPU reads."""
    return {
        "utilization_pct": chance.randint(0, 100),
        "memory_used_mb": chance.randint(0, 81_559),
        "memory_total_mb": 81_559,
        "temperature_c": chance.randint(30, 80),
        "power_draw_w": round(chance.uniform(60, 700), 3),
    }


def bodies(form: str, first_gpu: int, gpus: int, size: int) -> list[bytes]:
    """The whole fleet in batches of so many samples, with a mark where the time goes."""
    chance = random.Random(42)
    found = []
    for start in range(0, gpus - gpus % size, size):
        samples = [(first_gpu + start + n, figures(chance)) for n in range(size)]
        if form == "json":
            rows = [{"gpu_id": gpu, "recorded_at": STAMP.decode(), **values} for gpu, values in samples]
            found.append(json.dumps({"metrics": rows}, separators=(",", ":")).encode())
        else:
            lines = [
                f"gpu,gpu_id={gpu} {','.join(f'{name}={value}' for name, value in values.items())} {NS_STAMP.decode()}"
                for gpu, values in samples
            ]
            found.append("\n".join(lines).encode())
    return found


def requests_of(order: dict[str, Any]) -> Iterator[bytes]:
    """For ``benchmarks.load``: batches of the fleet in turn, each round at its own instant, which is now."""
    form, path, headers = order["form"], order["path"], order["headers"]
    mark = STAMP if form == "json" else NS_STAMP
    parts = [body.split(mark) for body in bodies(form, order["first_gpu"], order["gpus"], order["size"])]
    keys = (f"Idempotency-Key: {uuid.uuid4().hex[:12]}-{number}\r\n" for number in itertools.count())
    while True:
        at = datetime.now(UTC)
        text = at.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if form == "json" else str(int(at.timestamp() * 1000) * 10**6)
        for body in parts:
            yield post(path, text.encode().join(body), headers + (next(keys) if order["keyed"] else ""))


def free_port() -> int:
    """One that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_server(stack: ExitStack, name: str, command: list[str], port: int) -> None:
    """Start a server, wait until it listens, and stop it at the end."""
    env = {
        **os.environ,
        "LOG_LEVEL": "ERROR",
        "API_RATE_PER_KEY": "1000000000",
        "ALLOWED_HOSTS": "localhost",
        "METRICS_GROUP_COMMIT": "1",
        "WEB_CPU_AFFINITY": "1",
    }
    process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
    stack.callback(process.wait)
    stack.callback(process.send_signal, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.2)
    raise RuntimeError(f"{name} does not listen")


def granian(port: int, target: str, workers: int, threads: int) -> list[str]:
    """The web server as an installation would run it."""
    binary = str(Path(sys.executable).parent / "granian")
    size = ["--workers", str(workers), "--blocking-threads", str(threads)]
    kind = ["--interface", "wsgi", "--http", "1", "--no-ws"]
    return [binary, *kind, "--port", str(port), "--log-level", "error", *size, target]


def load(order: dict[str, Any]) -> dict[str, float]:
    """One run of the load generator in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bench_ingest", json.dumps(order), "load"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    found: dict[str, float] = json.loads(done.stdout)
    return found


def prepare(gpus: int) -> tuple[str, int]:
    """A fleet in an empty database. Returns a raw key that may report it, and its first GPU's id."""
    import django

    django.setup()
    from django.core.management import call_command
    from django.db import connection

    from apikeys.models import KeyKind
    from apikeys.services import issue_key
    from clusters.models import Cluster, Node
    from clusters.rollups import maintain_partitions

    now = datetime.now(UTC)
    call_command("migrate", verbosity=0)
    maintain_partitions(now=now)
    agents = issue_key(label="bench", permissions=["write"], created_by="bench", now=now, kind=KeyKind.CLUSTER)
    cluster = Cluster.objects.create(name="bench", key=agents.key, created_at=now)
    nodes = Node.objects.bulk_create(
        Node(cluster=cluster, hostname=f"node-{n}", last_heartbeat_at=now, created_at=now)
        for n in range(gpus // GPUS_A_NODE)
    )
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO clusters_gpu (node_id, gpu_index, model, uuid, pci_bus_id, health, health_cause,"
            " health_reason, state, registered_at) SELECT node, slot, 'H100', '', '', 'healthy', '', '', 'available',"
            " %s FROM generate_series(%s, %s) AS node, generate_series(0, 7) AS slot ORDER BY node, slot RETURNING id",
            [now, nodes[0].pk, nodes[-1].pk],
        )
        first = min(row[0] for row in cursor.fetchall())
        cursor.execute(CONTRAST)
        cursor.execute("ANALYZE")
    return agents.raw, first


def floor(first_gpu: int, gpus: int, size: int, seconds: float) -> float:
    """Samples a second of a binary COPY on one connection, a commit for each 32 batches."""
    from django.db import transaction

    from clusters import ingest
    from clusters.frames import pack_runs, runs_of
    from clusters.groups import Inventory
    from clusters.telemetry import decode_quickly

    inventory, packed = Inventory(), []
    for number, body in enumerate(bodies("json", first_gpu, gpus, size)):
        now = datetime.now(UTC) + timedelta(milliseconds=number)
        columns = decode_quickly(body.replace(STAMP, now.isoformat().encode()), now=now)
        assert columns is not None
        node_ids = inventory.nodes_of(columns.gpu_ids)
        assert node_ids is not None
        packed.append(pack_runs(columns, runs_of(columns, node_ids)))
    began, count = time.perf_counter(), 0
    while time.perf_counter() < began + seconds:
        rows = [packed[(count + n) % len(packed)] for n in range(32)]
        with transaction.atomic():
            ingest.copy_packed(rows)
        count += 32
    return count * size / (time.perf_counter() - began)


def empty() -> None:
    """Take the samples out, so that no repetition pays for the one before."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute("TRUNCATE clusters_metricframe, clusters_metriclate, contrast_reading")
        cursor.execute("CHECKPOINT")


def measure(options: argparse.Namespace, stack: ExitStack) -> dict[tuple[str, int, int], list[dict[str, float]]]:
    """All runs, by server, batch size and connections."""
    raw_key, first_gpu = prepare(options.gpus)
    auth = f"Authorization: Bearer {raw_key}\r\nContent-Type: application/json\r\n"
    common = {"host": "127.0.0.1", "first_gpu": first_gpu, "gpus": options.gpus, "seconds": options.seconds}
    common |= {"keyed": False}
    ours, drf, peer = free_port(), free_port(), free_port()
    run_server(stack, "gpufleet", granian(ours, "gpufleet.wsgi:application", options.workers, options.threads), ours)
    run_server(stack, "contrast", granian(drf, "benchmarks.contrast:application", options.workers, 4), drf)
    api = {**common, "form": "json", "path": "/api/clusters/metrics", "headers": auth}
    servers = {"gpufleet": {**api, "port": ours}, "keyed": {**api, "port": ours, "keyed": True}}
    servers["drf"] = {**api, "port": drf}
    if options.victoria_metrics:
        data = stack.enter_context(tempfile.TemporaryDirectory())
        flags = [f"-storageDataPath={data}", f"-httpListenAddr=127.0.0.1:{peer}", "-loggerLevel=ERROR"]
        run_server(stack, "VictoriaMetrics", [options.victoria_metrics, *flags], peer)
        servers["victoria"] = {**common, "form": "influx", "path": "/write", "headers": "", "port": peer}
    found: dict[tuple[str, int, int], list[dict[str, float]]] = {}
    for _ in range(options.repetitions):
        for size in BATCHES:
            floor_per_s = floor(first_gpu, options.gpus, size, options.seconds)
            found.setdefault(("floor", size, 1), []).append({"samples_per_s": floor_per_s})
            empty()
            for name, server in servers.items():
                for connections in CONNECTIONS if name not in ("drf", "keyed") else CONNECTIONS[-1:]:
                    run = load({**server, "size": size, "connections": connections})
                    found.setdefault((name, size, connections), []).append(
                        {"samples_per_s": run["per_s"] * size, "p50_ms": run["p50_ms"], "p99_ms": run["p99_ms"]}
                    )
                empty()
    return found


PASSED = """
SELECT (SELECT num_timed + num_requested FROM pg_stat_checkpointer),
       (SELECT sum(autovacuum_count)::int FROM pg_stat_user_tables)
"""


def sustain(options: argparse.Namespace, stack: ExitStack) -> dict[str, Any]:
    """Minute after minute of keyed batches of 100, with whatever checkpoints and vacuum PostgreSQL does meanwhile."""
    from django.db import connection

    raw_key, first_gpu = prepare(options.gpus)
    port = free_port()
    run_server(stack, "gpufleet", granian(port, "gpufleet.wsgi:application", options.workers, options.threads), port)
    order = {
        "host": "127.0.0.1",
        "port": port,
        "first_gpu": first_gpu,
        "gpus": options.gpus,
        "size": SUSTAINED_BATCH,
        "connections": CONNECTIONS[-1],
        "seconds": 60,
        "form": "json",
        "path": "/api/clusters/metrics",
        "headers": f"Authorization: Bearer {raw_key}\r\nContent-Type: application/json\r\n",
        "keyed": True,
    }
    minutes = []
    for _ in range(options.sustained):
        run = load(order)
        minutes.append(round(run["per_s"] * SUSTAINED_BATCH))
        times = f"p50 {run['p50_ms']:6.1f} ms  p99 {run['p99_ms']:6.1f} ms"
        print(f"{minutes[-1]:>9,}/s  {times}  load {os.getloadavg()[0]:.1f}", flush=True)
    with connection.cursor() as cursor:
        cursor.execute(PASSED)
        checkpoints, vacuums = cursor.fetchone()
    return {
        "samples_per_s": minutes,
        "last_to_first": round(minutes[-1] / minutes[0], 3),
        "worst_to_first": round(min(minutes) / minutes[0], 3),
        "checkpoints": checkpoints,
        "autovacuums": vacuums,
    }


def report(found: dict[tuple[str, int, int], list[dict[str, float]]]) -> dict[str, Any]:
    """Medians as lines for people; those at the most connections as figures."""
    medians = {
        place: {name: statistics.median(run[name] for run in runs) for name in runs[0]} for place, runs in found.items()
    }
    for (name, size, connections), one in sorted(medians.items(), key=lambda item: (item[0][1], item[0])):
        rates = [run["samples_per_s"] for run in found[name, size, connections]]
        spread = f"{min(rates):>9,.0f}-{max(rates):<9,.0f}"
        times = f"p50 {one['p50_ms']:6.1f} ms  p99 {one['p99_ms']:6.1f} ms" if "p50_ms" in one else ""
        print(f"{name:9} batch {size:4}  c={connections:2}  {one['samples_per_s']:>9,.0f}/s ({spread}) {times}")
    most = CONNECTIONS[-1]
    ours = {size: medians["gpufleet", size, most]["samples_per_s"] for size in BATCHES}

    def ratio_to(name: str, connections: int) -> dict[int, float] | None:
        if (name, BATCHES[0], connections) not in medians:
            return None
        return {size: round(ours[size] / medians[name, size, connections]["samples_per_s"], 3) for size in BATCHES}

    return {
        "samples_per_s": {size: round(rate) for size, rate in ours.items()},
        "ratio_to_peer": ratio_to("victoria", most),
        "ratio_to_floor": ratio_to("floor", 1),
        "ratio_to_drf": ratio_to("drf", most),
        "ratio_to_keyed": ratio_to("keyed", most),
        "p99_ms": {size: round(medians["gpufleet", size, most]["p99_ms"], 1) for size in BATCHES},
        "index": "btree (node_id, recorded_at)",
    }


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, default=GPUS)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=4)
    peer = os.environ.get("VICTORIA_METRICS") or shutil.which("victoria-metrics")
    parser.add_argument("--victoria-metrics", default=peer)
    parser.add_argument("--sustained", type=int, default=0, metavar="MINUTES")
    options = parser.parse_args()
    if options.sustained:
        with ExitStack() as stack:
            print(json.dumps(sustain(options, stack)))
        return
    if not options.victoria_metrics:
        print("VictoriaMetrics is not installed (Debian: victoria-metrics): no ratio_to_peer")
    with ExitStack() as stack:
        result = report(measure(options, stack))
    print(json.dumps(result))


if __name__ == "__main__":
    if sys.argv[-1] == "load":
        load_main(requests_of)
    else:
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gpufleet.settings")
        main()
