"""The shape of the project itself: what a new model, command or scheduled task must not forget."""

from importlib import import_module
from pathlib import Path

import pytest
from celery import current_app
from django.apps import apps
from django.core.management import get_commands
from django.db.models import Model

from gpufleet.schedule import BEAT_SCHEDULE
from gpufleet.supervisor import ROOT

# From the floor up; ARCHITECTURE.md and .importlinter say the same.
FLOORS = ["common", "tenants", "apikeys", "clusters", "jobs", "billing", "alerts", "dashboard"]
OUR_MODELS = [model for model in apps.get_models() if model._meta.app_label in FLOORS]
OUR_COMMANDS = sorted(name for name, app in get_commands().items() if app.rpartition(".")[2] in FLOORS)


def test_each_of_our_apps_has_its_floor() -> None:
    ours = [config.label for config in apps.get_app_configs() if Path(config.path).is_relative_to(ROOT)]
    assert {label for label in ours if ".venv" not in apps.get_app_config(label).path} - {"gpufleet"} == set(FLOORS)


@pytest.mark.parametrize("model", OUR_MODELS, ids=lambda model: model._meta.label)
def test_foreign_keys_point_down_only_also_those_that_are_strings(model: type[Model]) -> None:
    floor = FLOORS.index(model._meta.app_label)
    for field in model._meta.get_fields(include_hidden=True):
        target = field.related_model
        if not field.auto_created and isinstance(target, type) and target._meta.app_label in FLOORS:
            assert FLOORS.index(target._meta.app_label) <= floor, f"{field} points up"


def test_each_scheduled_task_exists() -> None:
    current_app.loader.import_default_modules()
    scheduled = {entry["task"] for entry in BEAT_SCHEDULE.values()}
    assert scheduled
    assert scheduled <= set(current_app.tasks)


@pytest.mark.parametrize("task", sorted({entry["task"] for entry in BEAT_SCHEDULE.values()}))
def test_each_scheduled_task_has_a_test(task: str) -> None:
    """A test module of its app imports the module of the task."""
    current_app.loader.import_default_modules()
    module = current_app.tasks[task].__module__
    app, _, _ = module.rpartition(".")
    assert speaks_of(ROOT / app.replace(".", "/") / "tests", [f"{app} import tasks", f"{module} import"])


def test_there_are_commands() -> None:
    assert {"bootstrap", "seed_demo", "simulate_fleet"} <= set(OUR_COMMANDS)


@pytest.mark.parametrize("command", OUR_COMMANDS)
def test_each_command_has_a_test(command: str) -> None:
    """A test module of its own that calls it."""
    app = get_commands()[command]
    file = ROOT / str(app).replace(".", "/") / "tests" / f"test_{command}.py"
    assert file.exists()
    assert f'"{command}"' in file.read_text()


def test_each_command_says_what_it_does() -> None:
    for name in OUR_COMMANDS:
        assert import_module(f"{get_commands()[name]}.management.commands.{name}").Command.help, name


def speaks_of(folder: Path, phrases: list[str]) -> bool:
    return any(phrase in file.read_text() for file in folder.glob("test_*.py") for phrase in phrases)
