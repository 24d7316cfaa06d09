"""The WSGI entry point that granian serves."""

import gc
import os
from typing import Any

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "gpufleet.settings")

application: Any = get_wsgi_application()

# Known to Django's settings and apps only now.
from django.conf import settings  # noqa: E402

from clusters.intake import Intake  # noqa: E402
from gpufleet.answering import answer_from_any_thread  # noqa: E402
from gpufleet.common.processors import keep_to_one  # noqa: E402

if settings.WEB_CPU_AFFINITY:
    # Before a thread starts. No two of them run at a time, under the interpreter's lock, and to hand that on from one
    # processor to another costs more than to the next thread of the same.
    keep_to_one()

if settings.METRICS_GROUP_COMMIT:
    application = Intake(application)
    answer_from_any_thread(application)

# What was loaded stays for good, so no collection need look at it; and a metric batch makes thousands of short-lived
# tuples, in which there is nothing to find.
gc.collect()
gc.freeze()
gc.set_threshold(50_000, 20, 20)
