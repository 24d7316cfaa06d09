"""The Celery application. Tasks are found in each app's ``tasks.py``; the schedule is ``gpufleet/schedule.py``."""

import os
from typing import Any

import structlog
from celery import Celery
from celery.signals import task_postrun, task_prerun

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gpufleet.settings")

app = Celery("gpufleet")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@task_prerun.connect  # type: ignore[untyped-decorator]  # celery is untyped
def name_the_task(task_id: str, task: Any, **_: Any) -> None:
    """Let every line that a task logs carry its name and id, as those of a request carry the request's."""
    structlog.contextvars.bind_contextvars(task=task.name, task_id=task_id)


@task_postrun.connect  # type: ignore[untyped-decorator]  # celery is untyped
def forget_the_task(**_: Any) -> None:
    """The worker goes on to other things."""
    structlog.contextvars.unbind_contextvars("task", "task_id")
