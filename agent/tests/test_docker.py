"""Images in docker: what its client is told, and, where there is an engine, that it does as it is told.

A program that says its arguments stands in for docker's client where a test is about those. The tests of the engine
want one that answers, with NVIDIA's hook; their image is one program, built here, so that they need no registry.
"""

import os
import shutil
import subprocess
import tarfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone
from jobs.models import JobStatus
from jobs.services import change_status

from gpufleet_agent.runs import Workload
from gpufleet_agent.schemas import Assignment
from tests.fleet import Fleet
from tests.hosts import Host, run_of, status, submit

CLIENT, GCC = shutil.which("docker"), shutil.which("gcc")
GPUS = ["--gpus", '"device=GPU-a,GPU-b"']
# Says which GPUs it was given and one variable, and either ends with the code of its argument or waits for SIGTERM.
PROGRAM = """
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
static void told(int number) { (void)number; if (write(1, "saving\\n", 7)) {} }
int main(int count, char **words) {
    setvbuf(stdout, NULL, _IONBF, 0);
    printf("%s %s\\n", getenv("NVIDIA_VISIBLE_DEVICES"), getenv("TOKEN"));
    if (count > 1) return atoi(words[1]);
    signal(SIGTERM, told);
    while (1) pause();
}
"""


def assignment(**fields: Any) -> Assignment:
    known = {
        "run_id": 3, "job_id": 7, "name": "train", "command": ["python", "train.py"], "image": "pytorch:2", "env": {},
        "gpus": [{"gpu_index": 0, "uuid": "GPU-a"}, {"gpu_index": 1, "uuid": "GPU-b"}],
        "rank": 0, "world_size": 1, "master_addr": "10.0.0.1", "stop_by": None,
    }  # fmt: skip
    return {**known, **fields}  # type: ignore[typeddict-item]  # they are all there


def test_a_container_gets_the_nodes_network_and_its_gpus_and_is_known_by_its_run() -> None:
    order = Workload("docker").order(assignment(), Path("/runs/3"))
    container = ["--rm", "--init", "--name", "gpufleet-run-3", "--network", "host"]
    assert order["argv"] == [
        "docker", "run", *container, *GPUS, "--env-file", "/runs/3/env", "--", "pytorch:2", "python", "train.py",
    ]  # fmt: skip
    assert "RANK=0" in order["files"]["env"].splitlines()
    assert "CUDA_VISIBLE_DEVICES" not in order["files"]["env"]


def test_gpus_without_uuids_are_known_by_their_numbers() -> None:
    gpus = [{"gpu_index": 4, "uuid": ""}, {"gpu_index": 6, "uuid": ""}]
    assert '"device=4,6"' in Workload("docker").order(assignment(gpus=gpus), Path("/runs/3"))["argv"]


def test_an_image_that_looks_like_an_option_is_none() -> None:
    order = Workload("docker").order(assignment(image="--volume=/:/host", command=["alpine"]), Path("/runs/3"))
    assert order["argv"][-3:] == ["--", "--volume=/:/host", "alpine"]


def test_a_jobs_variables_are_none_of_the_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/mine.sock")
    env = {"PATH": "/evil", "DOCKER_HOST": "tcp://evil:1", "KEY": "two\nlines"}
    order = Workload("docker").order(assignment(env=env), Path("/runs/3"))
    assert {"PATH=/evil", "DOCKER_HOST=tcp://evil:1"} <= set(order["files"]["env"].splitlines())
    assert (order["env"]["PATH"], order["env"]["DOCKER_HOST"]) == (os.environ["PATH"], "unix:///run/mine.sock")
    assert order["env"]["KEY"] == "two\nlines"  # The file has no room for it, so that the client passes on its own.
    assert order["argv"][order["argv"].index("--env") + 1] == "KEY"
    assert "KEY" not in order["files"]["env"]


def test_a_variable_that_only_the_client_could_pass_on_but_reads_itself_is_refused() -> None:
    workload = Workload("docker")
    assert workload.refusal(assignment(env={"LD_PRELOAD": "/evil.so\n"}))
    assert not workload.refusal(assignment(env={"LD_PRELOAD": "/good.so", "PEM": "two\nlines"}))
    assert not Workload("process").refusal(assignment(env={"LD_PRELOAD": "/good.so\n"}, image=""))


@pytest.mark.parametrize(
    ("mode", "image", "fits"), [("docker", "", False), ("docker", "x", True), ("none", "x", False)]
)
def test_a_node_for_images_runs_images_alone(mode: str, image: str, fits: bool) -> None:
    assert (not Workload(mode).refusal(assignment(image=image))) is fits


@pytest.fixture
def node(fleet: Fleet, tmp_path: Path) -> Iterator[Host]:
    fleet.cluster.execution_enabled = True
    fleet.cluster.save()
    host = Host(fleet, tmp_path)
    host.workload = Workload("docker")
    host.restart()
    yield host
    host.end()


def test_no_ps_shows_a_jobs_variables(node: Host, tmp_path: Path) -> None:
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nwhile [ "$1" != --env-file ]; do shift; done; grep TOKEN "$2"\n')
    docker.chmod(0o755)
    node.workload = Workload("docker", docker=str(docker))
    node.restart()
    job = submit(node.fleet, "python", "train.py", image="pytorch:2", gpu_count=2, env={"TOKEN": "secret $(id)"})
    node.until(lambda: status(job) == JobStatus.COMPLETED)
    said = run_of(job).log_tail.splitlines()
    assert said[said.index("--gpus") + 1] == '"device=node-1-0,node-1-1"'
    assert said[-4:] == ["pytorch:2", "python", "train.py", "TOKEN=secret $(id)"]
    assert "secret" not in " ".join(said[:-1])


def test_dockers_own_client_understands_every_argument(tmp_path: Path) -> None:
    if CLIENT is None:
        pytest.skip("there is no docker client here")
    (tmp_path / "env").write_text("TOKEN=x\n")
    argv = Workload("docker").order(assignment(), tmp_path)["argv"]
    nobody = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/nobody.sock"}
    ended = subprocess.run(argv, env=nobody, capture_output=True, text=True, check=False)
    assert "connect" in ended.stderr, ended.stderr


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if CLIENT is None or GCC is None:
        pytest.skip("there is no docker client here, or no gcc to build its image")
    if docker("version").returncode:
        pytest.skip("no docker engine answers here")
    folder, name = tmp_path_factory.mktemp("image"), f"gpufleet-test:{uuid.uuid4().hex[:12]}"
    (folder / "say.c").write_text(PROGRAM)
    subprocess.run([GCC, "-static", "-o", folder / "say", folder / "say.c"], check=True)
    with tarfile.open(folder / "image.tar", "w") as tar:
        tar.add(folder / "say", "say")
    assert not docker("import", str(folder / "image.tar"), name).returncode
    tried = docker("run", "--rm", "--gpus", "device=0", name, "/say", "0")
    yield name if not tried.returncode else pytest.skip(f"this docker engine has no GPUs: {tried.stderr.strip()}")
    docker("rmi", "--force", name)


def docker(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)


def containers() -> list[str]:
    return docker("ps", "--all", "--quiet", "--filter", "name=gpufleet-run-").stdout.split()


@pytest.mark.parametrize(("code", "ending"), [("0", JobStatus.COMPLETED), ("3", JobStatus.FAILED)])
def test_an_image_runs_to_its_end(node: Host, image: str, code: str, ending: str) -> None:
    job = submit(node.fleet, "/say", code, image=image, gpu_count=2, env={"TOKEN": "a b"})
    node.until(lambda: status(job) == ending)
    run = run_of(job)
    assert (run.exit_code, run.log_tail) == (int(code), "node-1-0,node-1-1 a b")
    assert not containers()


def test_an_image_that_is_not_there_fails_its_job_with_dockers_word(node: Host, image: str) -> None:
    job = submit(node.fleet, "/say", image=f"{image}-not")
    node.until(lambda: status(job) == JobStatus.FAILED)
    assert run_of(job).exit_code == 125
    assert f"{image}-not" in run_of(job).log_tail


def test_a_cancelled_container_is_told_and_then_killed(node: Host, image: str) -> None:
    job = submit(node.fleet, "/say", image=image)
    node.until(lambda: any(run.tail() for run in node.executor._runs().values()))
    change_status(job_id=job.pk, status="cancelled", actor="key:1", now=timezone.now())
    node.until(lambda: run_of(job).state == "exited")
    assert run_of(job).log_tail.endswith("saving")
    assert not containers()


def test_a_container_whose_client_died_is_not_left_on_its_gpus(node: Host, image: str) -> None:
    job = submit(node.fleet, "/say", image=image)
    node.until(lambda: any(run.tail() for run in node.executor._runs().values()))
    assert containers()
    (run,) = node.executor._runs().values()
    run.signal(9)
    node.until(lambda: status(job) == JobStatus.FAILED)
    assert not containers()
