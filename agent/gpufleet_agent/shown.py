"""Rows for a terminal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from typing import Any

from gpufleet_agent.schemas import Cluster, Explanation, Gpu, Invoice, Job, Node, Run, Usage

BAR = 10
FULL = 100


def show_json(value: Any) -> None:
    """As the API gave it."""
    print(json.dumps(value, indent=2))


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Columns as wide as they need, cut at the terminal's edge; numbers to the right."""
    cells = [[_text(cell) for cell in row] for row in rows]
    widths = [max([len(heading), *(len(row[place]) for row in cells)]) for place, heading in enumerate(headings)]
    lines = ["  ".join(heading.upper().ljust(width) for heading, width in zip(headings, widths))]
    for row, cell_row in zip(rows, cells):
        parts = [
            text.rjust(width) if isinstance(value, (int, float)) else text.ljust(width)
            for value, text, width in zip(row, cell_row, widths)
        ]
        lines.append("  ".join(parts))
    edge = shutil.get_terminal_size((120, 24)).columns
    return "\n".join(line.rstrip()[:edge] for line in lines)


def clusters(rows: Sequence[Cluster]) -> str:
    """One line a cluster."""
    headings = ("id", "name", "region", "status", "nodes", "gpus", "idle", "running", "waiting", "executes")
    return table(
        headings,
        [
            (
                row["id"],
                row["name"],
                row["region"],
                row["status"],
                row["node_count"],
                row["gpu_count"],
                row["idle_gpus"],
                row["active_jobs"],
                row["queued_jobs"],
                "yes" if row["execution_enabled"] else "no",
            )
            for row in rows
        ],
    )


def nodes(rows: Sequence[Node]) -> str:
    """One line a node."""
    headings = ("id", "hostname", "cluster", "status", "gpus", "last heartbeat", "reason")
    return table(
        headings,
        [
            (
                row["id"],
                row["hostname"],
                row["cluster_id"],
                row["status"],
                row["gpu_count"],
                row["last_heartbeat_at"][:19],
                row["reason"],
            )
            for row in rows
        ],
    )


def gpus(rows: Sequence[Gpu]) -> str:
    """One line a GPU, the busiest first."""
    return _gpus(sorted(rows, key=_by_use))


def busiest_gpus(rows: Sequence[Gpu]) -> str:
    """As many of the busiest as the terminal has lines for, and how many there are beside them."""
    lines = shutil.get_terminal_size((120, 24)).lines
    beside_rows = 3  # The headings, the count, and the line that the cursor is on.
    most = max(1, lines - beside_rows)
    shown = _gpus(sorted(rows, key=_by_use)[:most])
    return f"{shown}\n… and {len(rows) - most} GPUs that do less" if len(rows) > most else shown


def _by_use(row: Gpu) -> tuple[float, int]:
    return -(_reading(row, "utilization_pct") or 0.0), row["id"]


def _gpus(ordered: Sequence[Gpu]) -> str:
    headings = ("gpu", "node", "slot", "model", "state", "use", "%", "memory mb", "°c", "w", "job")
    return table(
        headings,
        [
            (
                row["id"],
                row["node_id"],
                row["gpu_index"],
                row["model"],
                row["state"],
                _bar(_reading(row, "utilization_pct")),
                _reading(row, "utilization_pct"),
                _reading(row, "memory_used_mb"),
                _reading(row, "temperature_c"),
                _reading(row, "power_draw_w"),
                "" if row["job"] is None else f"{row['job']['id']} {row['job']['name']}",
            )
            for row in ordered
        ],
    )


def jobs(rows: Sequence[Job]) -> str:
    """One line a job."""
    headings = ("id", "name", "status", "gpus", "type", "priority", "submitted", "cost", "why it waits")
    return table(
        headings,
        [
            (
                row["id"],
                row["name"],
                row["status"],
                row["gpu_count"],
                row["gpu_type"] or "any",
                row["priority"],
                row["submitted_at"][:19],
                f"{row['cost']} {row['currency']}" if row["cost"] else "",
                row["block_reason"],
            )
            for row in rows
        ],
    )


def explanation(row: Explanation) -> str:
    """Sentences."""
    lines = [f"Job {row['job_id']} is {row['status']}: {row['summary']}"]
    lines += [f"  blocked by: {blocker['text']}" for blocker in row["blockers"]]
    if row["place"] is not None:
        lines.append(f"  place {row['place']} of {row['queued']} in its cluster's queue")
    if row["estimated_start"] is not None:
        lines.append(f"  expected to start at {row['estimated_start'][:19]} UTC")
    lines += [f"  would start now: {remedy['text']}" for remedy in row["would_start_now_with"]]
    if row["placed_on"]:
        lines.append(f"  placed on: {', '.join(row['placed_on'])}")
    return "\n".join(lines)


def runs(rows: Sequence[Run]) -> str:
    """The end of each log, under the node's name."""
    parts = [] if rows else ["No node has told of a run of it."]
    for row in rows:
        code = "" if row["exit_code"] is None else f", exit code {row['exit_code']}"
        parts.append(f"--- rank {row['rank']} on {row['hostname']}: {row['state']}{code} {row['message']}".rstrip())
        if row["log_tail"]:
            parts.append(row["log_tail"])
    return "\n".join(parts)


def usage(row: Usage) -> str:
    """What a tenant used, in total and by model."""
    total = f"{_hours(row['gpu_seconds'])} GPU-hours, {row['cost']} {row['currency']}"
    window = f"from {row['window_from'][:10]} to {row['window_to'][:10]}"
    models = [(one["gpu_model"] or "-", _hours(one["gpu_seconds"]), one["cost"]) for one in row["by_gpu_model"]]
    return "\n".join([f"{total} {window}", *([table(("model", "gpu-hours", "cost"), models)] if models else [])])


def invoices(rows: Sequence[Invoice]) -> str:
    """One line an invoice."""
    headings = ("id", "number", "tenant", "status", "total", "currency", "from", "to")
    return table(
        headings,
        [
            (
                row["id"],
                row["number"],
                row["tenant_id"],
                row["status"],
                row["total"],
                row["currency"],
                row["period_from"][:10],
                row["period_to"][:10],
            )
            for row in rows
        ],
    )


def _hours(seconds: str) -> str:
    return f"{float(seconds) / 3600:,.2f}"


def _reading(row: Gpu, name: str) -> Any:
    reading: Any = row["latest_metrics"]
    return None if reading is None else reading[name]


def _bar(percent: float | None) -> str:
    filled = round(BAR * (percent or 0.0) / FULL)
    return "█" * filled + "·" * (BAR - filled)


def _text(cell: Any) -> str:
    return "-" if cell is None else str(cell)
