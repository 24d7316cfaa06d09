"""Reports a node's GPUs to gpufleet and, where it is told to, runs its jobs."""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from urllib.parse import urlsplit

from gpufleet_agent import __version__
from gpufleet_agent.client import Client
from gpufleet_agent.dcgm import DcgmSource
from gpufleet_agent.devices import Source, SourceFailed
from gpufleet_agent.executor import Executor
from gpufleet_agent.files import lock_file
from gpufleet_agent.nvml import NvmlSource
from gpufleet_agent.runs import MODES, Workload
from gpufleet_agent.simulated import SimulatedSource
from gpufleet_agent.spool import Spool
from gpufleet_agent.telemetry import NodeFacts, Telemetry
from gpufleet_agent.transport import Transport

logger = logging.getLogger("gpufleet_agent")

MEGABYTE = 2**20
GIGABYTE = 2**30
SHORTEST_NAP_S, LONGEST_NAP_S = 0.05, 5.0
BROKEN, MISUSE = 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Run until told to stop. Returns the exit code."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        options.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        if lock_file(options.state / "lock") is None:
            logger.error("another agent works in %s", options.state)
            return MISUSE
        client, telemetry = make_telemetry(options)
        executor = None if options.execute == "none" else make_executor(options, client)
    except (OSError, ValueError, LookupError, SourceFailed) as error:
        logger.error("%s", error)
        return MISUSE
    return _run(telemetry, executor)


def make_telemetry(options: argparse.Namespace) -> tuple[Client, Telemetry]:
    """The reports' side. Raises ``OSError``, ``ValueError`` and ``SourceFailed`` for options that do not fit."""
    key = options.key_file.read_text().strip()
    client = Client(Transport(options.server, key, ca_file=options.ca_file))
    facts = NodeFacts(
        cluster_id=options.cluster,
        hostname=options.hostname,
        ip_address=options.ip_address or _own_address(options.server),
        cpu_cores=os.cpu_count(),
        ram_gb=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // GIGABYTE,
    )
    telemetry = Telemetry(
        client,
        _source(options),
        facts,
        options.state,
        spool=Spool(options.state / "spool", most_bytes=options.spool_mb * MEGABYTE),
        interval_s=options.interval,
        heartbeat_s=options.heartbeat,
        rng=random.Random(),  # noqa: S311  (jitter, not a secret)
    )
    return client, telemetry


def make_executor(options: argparse.Namespace, client: Client) -> Executor:
    """The jobs' side. Raises ``KeyError`` for an account that is not there."""
    workload = Workload(options.execute, run_as=options.run_as, docker=options.docker)
    return Executor(client, workload, options.state / "runs", grace_s=options.grace)


def _run(telemetry: Telemetry, executor: Executor | None) -> int:
    """Until told to stop: 0. Whoever starts us again starts us again after 1."""
    stop, broken = threading.Event(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())

    def speak(now: datetime, tick: float) -> float:
        wait = telemetry.speak(now, tick)
        if executor is not None:
            executor.node_id = telemetry.node_id
        return wait

    work: list[Callable[[threading.Event], None]] = [lambda stop: _repeat(telemetry.sample, stop)]
    if executor is not None:
        executor.node_id = telemetry.node_id
        work += [executor.poll, executor.watch]
    for each in work:
        threading.Thread(target=_guarded, args=(each, stop, broken), daemon=True).start()
    _guarded(lambda stop: _repeat(speak, stop), stop, broken)
    logger.info("the agent has stopped; the jobs that it started run on")
    return BROKEN if broken.is_set() else 0


def _guarded(work: Callable[[threading.Event], None], stop: threading.Event, broken: threading.Event) -> None:
    """A part that breaks ends the whole, so that none is missing unseen."""
    try:
        work(stop)
    except Exception:
        logger.exception("a part of the agent has broken")
        broken.set()
        stop.set()


def _repeat(work: Callable[[datetime, float], float], stop: threading.Event) -> None:
    """Work whenever it is due, until told to stop."""
    while not stop.is_set():
        try:
            wait = work(datetime.now(timezone.utc), time.monotonic())
        except OSError:
            logger.exception("the disk does not do its part")
            wait = LONGEST_NAP_S
        stop.wait(min(max(wait, SHORTEST_NAP_S), LONGEST_NAP_S))


def _source(options: argparse.Namespace) -> Source:
    if options.simulate is not None:
        return SimulatedSource(options.simulate, options.hostname)
    return DcgmSource(options.dcgm_url) if options.dcgm_url else NvmlSource()


def _own_address(server: str) -> str | None:
    """The address by which this node reaches the server; nothing is sent."""
    parts = urlsplit(server)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        family, kind, _, _, address = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return None


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Says what holds where an option is not given, if anything does."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gpufleet-agent", description=__doc__)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    run = parser.add_subparsers(required=True, metavar="COMMAND").add_parser(
        "run",
        help="report this node, and run its jobs",
        description="Report this node's GPUs until told to stop. Jobs that it has started outlive it.",
        formatter_class=_Defaults,
    )
    run.add_argument(
        "--server", required=True, metavar="URL", help="where gpufleet is, such as https://gpufleet.example"
    )
    run.add_argument("--key-file", required=True, type=Path, metavar="FILE", help="holds the cluster's own key")
    run.add_argument("--cluster", required=True, type=int, metavar="ID", help="the cluster that this node is in")
    run.add_argument("--ca-file", metavar="FILE", help="certificates to trust, beside the system's")
    run.add_argument("--hostname", default=socket.gethostname(), help="this node's name in the fleet")
    run.add_argument("--ip-address", metavar="IP", help="by which other nodes reach it; found out where not given")
    run.add_argument("--state", type=Path, default=Path("/var/lib/gpufleet-agent"), metavar="FOLDER", help="its memory")
    _add_reporting(run)
    _add_execution(run)
    return parser


def _add_reporting(run: argparse.ArgumentParser) -> None:
    sources = run.add_argument_group("where readings come from (default: NVML)").add_mutually_exclusive_group()
    sources.add_argument("--dcgm-url", metavar="URL", help="a dcgm-exporter, such as http://localhost:9400/metrics")
    sources.add_argument("--simulate", type=_positive, metavar="N", help="N GPUs that are not there, for a try")
    run.add_argument("--interval", type=_seconds, default=10.0, metavar="S", help="seconds between two readings")
    run.add_argument("--heartbeat", type=_seconds, default=15.0, metavar="S", help="seconds between two heartbeats")
    run.add_argument("--spool-mb", type=_positive, default=256, metavar="MB", help="disk for readings not yet sent")


def _add_execution(run: argparse.ArgumentParser) -> None:
    group = run.add_argument_group(
        "running jobs", "Off unless it is turned on here and on the cluster (execution_enabled)."
    )
    group.add_argument("--execute", choices=MODES, default="none", help="commands as processes, images with docker")
    group.add_argument("--run-as", default="", metavar="USER", help="the account of the jobs; else the agent's own")
    group.add_argument("--grace", type=_seconds, default=30.0, metavar="S", help="from SIGTERM to SIGKILL")
    group.add_argument("--docker", default="docker", metavar="PROGRAM", help="docker, or what takes the same arguments")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _seconds(text: str) -> float:
    number = float(text)
    if not 0 < number < 86_400:
        raise argparse.ArgumentTypeError("must be between 0 and 86400")
    return number


if __name__ == "__main__":
    sys.exit(main())
