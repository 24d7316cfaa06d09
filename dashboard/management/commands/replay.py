"""``manage.py replay --nodes nodes.csv --pods pods.csv``: a published trace through the real services."""

import json
import logging
import time
from argparse import ArgumentParser
from datetime import timedelta
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from dashboard.replay.living import PRICE, START, Life, NotEmpty, refuse_if_used
from dashboard.replay.plot import plot
from dashboard.replay.policies import Outcome, different, outcome_of, run_fifo, run_plan
from dashboard.replay.trace import BadTrace, Trace, read_trace

SERVICES, PLAN, FIFO = "gpufleet, services", "gpufleet, pure plan", "FIFO without backfill"


class Command(BaseCommand):
    """Replay a trace on an empty database, and set two pure simulations of it beside that."""

    help = "Replay a published trace (format of Alibaba's cluster-trace-gpu-v2023) on an empty database."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """The files, and how much of them how fast."""
        parser.add_argument("--nodes", type=Path, required=True, help="nodes.csv")
        parser.add_argument("--pods", type=Path, required=True, help="pods.csv, or one of its variants")
        parser.add_argument("--speed", type=float, default=1.0, help="tasks come so many times as fast (1)")
        parser.add_argument("--limit", type=int, help="only so many of the first tasks that want a GPU")
        parser.add_argument("--every", type=int, default=1, help="every how manieth node is there (1: all)")
        parser.add_argument("--plot", type=Path, help="write an SVG here")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run it, and print what came of it. The last line is JSON."""
        how = {name: options[name] for name in ("speed", "limit", "every")}
        if any(value is not None and value <= 0 for value in how.values()):
            raise CommandError("--speed, --limit and --every are above 0.")
        try:
            trace = read_trace(options["nodes"], options["pods"], **how)
            refuse_if_used()
        except (BadTrace, NotEmpty) as error:
            raise CommandError(str(error)) from error
        self._describe(trace, options["speed"])
        logging.disable(logging.INFO)  # A line for each node that registers helps nobody here.
        try:
            outcomes = self._run(trace)
        finally:
            logging.disable(logging.NOTSET)
        if options["plot"]:
            options["plot"].write_text(plot(trace, outcomes))
        self.stdout.write(json.dumps({outcome.name: figures(outcome) for outcome in outcomes}))

    def _describe(self, trace: Trace, speed: float) -> None:
        shares = sum(task.share for task in trace.tasks)
        classes = len({task.tenant for task in trace.tasks})
        self.stdout.write(
            f"{len(trace.nodes)} nodes, {trace.gpus} GPUs; {len(trace.tasks)} tasks over"
            f" {timedelta(seconds=trace.ends)}, come {speed:g} times as fast as in the trace.\n"
            f"{shares} of them wanted a share of a GPU and get a whole one. Left out: {trace.without_gpu} that want no"
            f" GPU, {trace.never_fit} that no model has enough GPUs for.\n"
            f"Each lasts as long as in the trace, and its estimate is right to the minute. {classes} tenants, one for"
            f" each class of service, each with a quota of the whole cluster. A GPU-hour of any model is {PRICE} USD."
        )

    def _run(self, trace: Trace) -> list[Outcome]:
        began = time.monotonic()
        life = Life(trace)
        cycles = life.live()
        took = time.monotonic() - began
        lived = {life.tasks[one.job_id].name: one for one in life.holdings()}
        pure = run_plan(trace, life)
        odd = different(lived, pure)
        if odd or len(lived) < len(trace.tasks) or not life.is_clean():
            raise CommandError(f"{len(odd)} tasks went otherwise than in the pure run, such as {odd[:3]}.")
        billed = life.revenue(START + timedelta(seconds=trace.ends))
        outcomes = [
            outcome_of(SERVICES, trace, life, lived),
            outcome_of(PLAN, trace, life, pure),
            outcome_of(FIFO, trace, life, run_fifo(trace, life)),
        ]
        self.stdout.write(
            f"All {len(lived)} tasks ran. The services took {took:.0f} s for {cycles} cycles; each task had the same"
            f" nodes at the same time as in the pure run. By the ledger's locked prices: {billed:.2f} USD."
        )
        self._table(outcomes)
        return outcomes

    def _table(self, outcomes: list[Outcome]) -> None:
        self.stdout.write("Figures but waits and makespan are up to the last submission.")
        rows = [["policy", *figures(outcomes[0])], *([one.name, *map(str, figures(one).values())] for one in outcomes)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            self.stdout.write("  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)))


def figures(outcome: Outcome) -> dict[str, float | int | None]:
    """An outcome's figures, rounded for people."""
    return {
        "started": outcome.waits.started,
        "wait_mean_s": round(outcome.wait_mean_s, 1),
        "wait_p50_s": outcome.waits.p50_s,
        "wait_p95_s": outcome.waits.p95_s,
        "wait_max_s": outcome.wait_max_s,
        "utilization": round(outcome.utilization, 4),
        "stranded": None if outcome.stranded is None else round(outcome.stranded, 4),
        "revenue_usd": round(outcome.revenue, 2),
        "leakage_usd": round(outcome.leakage, 2),
        "makespan_s": outcome.makespan_s,
    }
