"""Submit jobs and look at the fleet, from a terminal or a script."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import sys
import time
from pathlib import Path
from typing import Any

from gpufleet_agent import __version__, shown
from gpufleet_agent.client import Client
from gpufleet_agent.files import read_json, write_json
from gpufleet_agent.schemas import Job
from gpufleet_agent.transport import Busy, Refused, Transport, Unreachable

FAILED, REFUSED, MISUSE, INTERRUPTED = 1, 1, 2, 130
ENDED = ("completed", "failed", "cancelled")
REFRESH_S, SHORTEST_REFRESH_S, WATCH_S = 2.0, 0.1, 1.0
CLEAR = "\x1b[H\x1b[2J"
EXAMPLES = """examples:
  gpufleet login https://gpufleet.example
  gpufleet jobs submit --cluster 1 --gpus 8 --name train -- python train.py --epochs 3
  gpufleet jobs submit --cluster 1 --image pytorch:2 --wait -- python train.py
  gpufleet jobs explain 42
  gpufleet gpus top

GPUFLEET_SERVER and GPUFLEET_KEY stand in for a login. Any command takes --json."""


class Trouble(Exception):
    """What the person at the terminal must mend."""


def main(arguments: list[str] | None = None) -> int:
    """Do what the arguments say. Returns the exit code."""
    options = _parser().parse_args(arguments)
    with contextlib.suppress(AttributeError):  # Not every stream that stands in for a terminal can.
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # a bar that it has no sign for is a "?"
    try:
        code: int | None = options.do(options)
        sys.stdout.flush()
    except (Trouble, ValueError) as error:
        print(f"gpufleet: {error}", file=sys.stderr)
        return MISUSE
    except Refused as error:
        _explain_refusal(error)
        return REFUSED
    except (Unreachable, Busy) as error:
        print(f"gpufleet: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _say_no_more()  # The reader left; that is no failure.
        return 0
    except OSError as error:
        _say_no_more()
        print(f"gpufleet: {error}", file=sys.stderr)
        return FAILED
    return code or 0


def _say_no_more() -> None:
    """What is still to be written goes nowhere, so that Python's own end does not stumble over it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def login(options: argparse.Namespace) -> None:
    """Keep server and key, if the server takes them."""
    key = getpass.getpass("API key (gfk_…): ") if sys.stdin.isatty() else sys.stdin.readline()
    Client(Transport(options.server, key.strip(), ca_file=options.ca_file)).clusters()
    path = _config()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_json(path, {"server": options.server, "key": key.strip(), "ca_file": options.ca_file})
    said = f"Logged in to {options.server}. The key is in {path}, for you alone to read."
    _show(options, {"server": options.server, "kept_in": str(path)}, lambda _: said)


def list_clusters(options: argparse.Namespace) -> None:
    """All clusters."""
    _show(options, _client().clusters(), shown.clusters)


def list_nodes(options: argparse.Namespace) -> None:
    """The nodes that the key may see."""
    _show(options, _client().nodes(cluster_id=options.cluster), shown.nodes)


def top(options: argparse.Namespace) -> None:
    """The GPUs, again and again."""
    client = _client()
    rows = client.gpus(cluster_id=options.cluster)
    if not sys.stdout.isatty() or options.json or options.once:
        _show(options, rows, shown.gpus)
        return
    while True:
        print(CLEAR + shown.busiest_gpus(rows))
        time.sleep(max(options.every, SHORTEST_REFRESH_S))
        try:
            rows = client.gpus(cluster_id=options.cluster)
        except (Unreachable, Busy) as error:
            print(f"gpufleet: {error}; these are the last", end="\r", file=sys.stderr)
            time.sleep(WATCH_S)


def submit(options: argparse.Namespace) -> int | None:
    """Submit a job; with --wait, stay until it has ended."""
    client = _client()
    job = client.submit_job(_job_fields(options))
    if not options.wait:
        _show(options, job, lambda row: f"Job {row['id']} is {row['status']}. {row['block_reason']}".rstrip())
        return None
    executes = any(row["execution_enabled"] for row in client.clusters() if row["id"] == options.cluster)
    if not executes or not (options.command or options.image):
        why = "has no command" if executes else f"is in cluster {options.cluster}, which runs no commands"
        print(f"gpufleet: job {job['id']} {why}: somebody must end it", file=sys.stderr)
    return _follow(options, client, job)


def list_jobs(options: argparse.Namespace) -> None:
    """Jobs, newest first."""
    _show(options, _client().jobs(status=options.status, limit=options.limit), shown.jobs)


def watch(options: argparse.Namespace) -> int:
    """Stay until the job has ended."""
    client = _client()
    return _follow(options, client, client.job(options.job))


def explain(options: argparse.Namespace) -> None:
    """Why it waits."""
    _show(options, _client().explain_job(options.job), shown.explanation)


def logs(options: argparse.Namespace) -> None:
    """The last lines of what it said."""
    _show(options, _client().job_runs(options.job), shown.runs)


def cancel(options: argparse.Namespace) -> None:
    """Cancel it."""
    _show(options, _client().move_job(options.job, "cancelled"), lambda row: f"Job {row['id']} is {row['status']}.")


def usage(options: argparse.Namespace) -> None:
    """What a tenant used."""
    client = _client()
    _show(options, client.usage(_tenant(client, options.tenant), days=options.days), shown.usage)


def invoices(options: argparse.Namespace) -> None:
    """The invoices that the key may see."""
    _show(options, _client().invoices(), shown.invoices)


def _follow(options: argparse.Namespace, client: Client, job: Job) -> int:
    """Say each change, to the end. Returns 0 only when the job completed."""
    try:
        job = _wait_for_end(options, client, job)
    except KeyboardInterrupt:
        print(f"gpufleet: job {job['id']} goes on; gpufleet jobs cancel {job['id']} would end it", file=sys.stderr)
        raise
    runs = client.job_runs(job["id"])
    _show(options, {**job, "runs": runs}, lambda _: shown.runs(runs))
    return 0 if job["status"] == "completed" else FAILED


def _wait_for_end(options: argparse.Namespace, client: Client, job: Job) -> Job:
    said = ""
    while True:
        words = f"{job['status']}{': ' + job['block_reason'] if job['block_reason'] else ''}"
        if words != said and not options.json:
            print(f"job {job['id']} {words}", flush=True)
        said = words
        if job["status"] in ENDED:
            return job
        time.sleep(WATCH_S)
        with contextlib.suppress(Unreachable, Busy):  # The job goes on without us, and so do we without the server.
            job = client.job(job["id"])


def _show(options: argparse.Namespace, value: Any, as_text: Any) -> None:
    if options.json:
        shown.show_json(value)
    else:
        print(as_text(value))


def _job_fields(options: argparse.Namespace) -> dict[str, Any]:
    fields = {
        "cluster_id": options.cluster,
        "name": options.name or (options.command[0] if options.command else options.image) or "job",
        "gpu_count": options.gpus,
        "gpu_type": options.gpu_type,
        "priority": options.priority,
        "tenant_id": options.tenant,
        "estimated_duration_min": options.minutes,
        "command": options.command or None,
        "image": options.image,
        "env": dict(options.env) or None,
        "submitted_by": getpass.getuser(),
    }
    return {name: value for name, value in fields.items() if value is not None}


def _tenant(client: Client, wanted: int | None) -> int:
    """The one that is named, or the only one that the key may see. Raises ``Trouble``."""
    if wanted is not None:
        return wanted
    tenants = client.tenants()
    if len(tenants) != 1:
        names = ", ".join(f"{tenant['id']} {tenant['name']}" for tenant in tenants[:20])
        raise Trouble(f"say which tenant: --tenant ID. There are: {names or 'none'}")
    return tenants[0]["id"]


def _client() -> Client:
    """By the environment, else by the last login. Raises ``Trouble``."""
    kept = read_json(_config())
    server = os.environ.get("GPUFLEET_SERVER") or kept.get("server")
    key = os.environ.get("GPUFLEET_KEY") or kept.get("key")
    if not server or not key:
        raise Trouble("log in first: gpufleet login https://your-server")
    return Client(Transport(server, key, ca_file=kept.get("ca_file")))


def _config() -> Path:
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "gpufleet" / "login.json"


def _explain_refusal(error: Refused) -> None:
    detail = error.problem.get("detail") or str(error)
    places = error.problem.get("errors", [])
    if len(places) == 1 and places[0]["detail"] == detail:
        print(f"gpufleet: {places[0]['pointer']}: {detail}", file=sys.stderr)
        return
    print(f"gpufleet: {detail}", file=sys.stderr)
    for one in places:
        print(f"  {one['pointer']}: {one['detail']}", file=sys.stderr)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gpufleet", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = _command(commands, "login", login, "keep the address of a server and a key for it")
    one.add_argument("server", metavar="URL", help="such as https://gpufleet.example; the key is asked for")
    one.add_argument("--ca-file", metavar="FILE", help="certificates to trust, beside the system's")
    _command(commands, "clusters", list_clusters, "list clusters")
    one = _command(commands, "nodes", list_nodes, "list nodes")
    one.add_argument("--cluster", type=int, metavar="ID", help="of this cluster alone")
    gpus = commands.add_parser("gpus", help="look at GPUs").add_subparsers(required=True, metavar="COMMAND")
    one = _command(gpus, "top", top, "what every GPU does now, the busiest first")
    one.add_argument("--cluster", type=int, metavar="ID", help="of this cluster alone")
    one.add_argument(
        "--every", type=float, default=REFRESH_S, metavar="S", help="seconds between two looks (%(default)s)"
    )
    one.add_argument("--once", action="store_true", help="look once, as into a pipe")
    _add_jobs(commands.add_parser("jobs", help="submit jobs and look after them"))
    one = _command(commands, "usage", usage, "what a tenant used, and what it cost")
    one.add_argument("--tenant", type=int, metavar="ID", help="where the key may see more than one")
    one.add_argument("--days", type=int, default=30, metavar="N", help="the last N days (%(default)s)")
    _command(commands, "invoices", invoices, "list invoices")
    return parser


def _add_jobs(parser: argparse.ArgumentParser) -> None:
    jobs = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_submit(_command(jobs, "submit", submit, "submit a job"))
    one = _command(jobs, "list", list_jobs, "list jobs, newest first")
    one.add_argument("--status", metavar="WORD", help="queued, blocked, running, completed, failed or cancelled")
    one.add_argument("--limit", type=_positive, default=50, metavar="N", help="the newest N (%(default)s)")
    for name, do, words in (
        ("watch", watch, "stay until a job has ended; exit code 0 only if it completed"),
        ("explain", explain, "why a job waits, or why it went where it went"),
        ("logs", logs, "the last lines of what a job said"),
        ("cancel", cancel, "cancel a job"),
    ):
        _command(jobs, name, do, words).add_argument("job", type=int, metavar="JOB", help="its id")


def _add_submit(one: argparse.ArgumentParser) -> None:
    one.add_argument("--cluster", type=int, required=True, metavar="ID", help="where to run it")
    one.add_argument("--gpus", type=int, default=1, metavar="N", help="how many GPUs, all at once (%(default)s)")
    one.add_argument("--gpu-type", metavar="MODEL", help="a model or its beginning, or several: A100|H100")
    one.add_argument("--name", help="by which you know it again; else the command's")
    one.add_argument("--priority", type=int, metavar="P", help="1 is the highest, 10 the lowest (5)")
    one.add_argument("--minutes", type=int, metavar="N", help="how long it will run; lets it start sooner")
    one.add_argument("--tenant", type=int, metavar="ID", help="for whom, where the key may speak for several")
    one.add_argument("--image", help="a container image, for nodes that run docker")
    one.add_argument("--env", type=_variable, action="append", default=[], metavar="NAME=VALUE", help="again for more")
    one.add_argument("--wait", action="store_true", help="stay until it has ended; exit code 0 only if it completed")
    one.add_argument(
        "command", nargs="*", metavar="-- COMMAND", help="and its arguments, as they are: no shell reads them"
    )


def _command(commands: Any, name: str, do: Any, words: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=words, description=words[0].upper() + words[1:] + "."
    )
    parser.add_argument("--json", action="store_true", help="as the API gives it, for scripts")
    parser.set_defaults(do=do)
    return parser


if __name__ == "__main__":
    sys.exit(main())
