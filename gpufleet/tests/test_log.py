import json
import subprocess
import sys

PROGRAM = """
import logging, structlog
from gpufleet.log import configure, logging_config
configure(logging_config(level="INFO", json=True))
with structlog.contextvars.bound_contextvars(request_id="r1"):
    structlog.stdlib.get_logger("a").info("ours", gpus=3)
    logging.getLogger("b").warning("theirs %s", 2, extra={"more": 1})
    structlog.stdlib.get_logger("a").debug("too fine")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("c").exception("broke")
logging.getLogger("django.request").warning("Not Found: /api/x")
"""


def test_both_doors_lead_to_one_line_of_json_an_event() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert run.stdout == ""
    ours, theirs, broke = [json.loads(line) for line in run.stderr.splitlines()]
    assert (ours["event"], ours["gpus"], ours["level"], ours["logger"]) == ("ours", 3, "info", "a")
    assert (theirs["event"], theirs["more"], theirs["level"], theirs["logger"]) == ("theirs 2", 1, "warning", "b")
    assert ours["request_id"] == theirs["request_id"] == "r1"
    assert "ZeroDivisionError" in broke["exception"]
    assert "request_id" not in broke
    assert ours["timestamp"].endswith("Z")
