"""Settings of gpufleet. Everything that differs between installations is read from the environment."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.urls import reverse_lazy

from gpufleet.env import DAY_S, MOST_DAYS, celery_url, env, pairs, percent, share, whole
from gpufleet.log import logging_config
from gpufleet.schedule import BEAT_SCHEDULE

BASE_DIR = Path(__file__).resolve().parent.parent

DEBUG: bool = env.bool("DEBUG", default=False)
SECRET_KEY: str = env.str("SECRET_KEY", default="")
if not SECRET_KEY:
    raise ImproperlyConfigured("SECRET_KEY is not set. `make up` makes one; see .env.example.")
ALLOWED_HOSTS: list[str] = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS: list[str] = env.list("CSRF_TRUSTED_ORIGINS", default=[])

# A request without credentials is a read-only visitor when, and only when, this is on.
GPUFLEET_DEMO: bool = env.bool("GPUFLEET_DEMO", default=False)
# Requests a minute for one key, and for one address that shows no valid key.
API_RATE_PER_KEY: int = env.int("API_RATE_PER_KEY", default=6000)
API_RATE_ANONYMOUS: int = env.int("API_RATE_ANONYMOUS", default=300)
# Proxies in front of us whose X-Forwarded-For is believed; with none an address is the connection's own.
TRUSTED_PROXIES: int = env.int("TRUSTED_PROXIES", default=0)
# A node is silent when its last heartbeat is older than this. Agents beat every 10 to 30 s; three misses count.
NODE_SILENT_AFTER_SECONDS: int = whole("NODE_SILENT_AFTER_SECONDS", default=90, most=DAY_S)
# A GPU leaves service when it was at 90 °C or more for so long, and is back when it was below 85 °C for as long. The
# built-in alert "GPU too hot" has the same figures.
GPU_HOT_AFTER_SECONDS: int = whole("GPU_HOT_AFTER_SECONDS", default=120, most=DAY_S)
# /readyz answers 503 when the scheduler has not finished a cycle for this long (the beat is 30 s).
SCHEDULER_LATE_AFTER_SECONDS: int = env.int("SCHEDULER_LATE_AFTER_SECONDS", default=120)
# Readings and registrations take no more than this share of the fleet's GPUs out of service without a person.
QUARANTINE_MAX_SHARE: float = share("QUARANTINE_MAX_SHARE", default="0.1")
# Raw samples are kept this many days; older daily partitions are dropped.
METRICS_RAW_DAYS: int = whole("METRICS_RAW_DAYS", default=14, most=MOST_DAYS)
# Batches that come together are written together. Off, each goes through Django by itself.
METRICS_GROUP_COMMIT: bool = env.bool("METRICS_GROUP_COMMIT", default=True)
# Each web process keeps to one processor, as long as there are some: its threads run one at a time all the same.
WEB_CPU_AFFINITY: bool = env.bool("WEB_CPU_AFFINITY", default=False)
# A Prometheus remote-write endpoint to which all samples are forwarded; none: they stay in PostgreSQL alone.
REMOTE_WRITE_URL: str = env.str("REMOTE_WRITE_URL", default="")
# Rollups of hours and days are kept this many days, and as long as what they were made of; older monthly partitions
# are dropped.
METRICS_ROLLUP_DAYS: int = whole(
    "METRICS_ROLLUP_DAYS", default=max(400, METRICS_RAW_DAYS), least=METRICS_RAW_DAYS, most=MOST_DAYS
)
# A finalised invoice is due this many days later.
INVOICE_DUE_DAYS: int = env.int("INVOICE_DUE_DAYS", default=30)
# What stands on an invoice as it is printed; lines of text are separated by "|".
COMPANY_NAME: str = env.str("COMPANY_NAME", default="COMPANY_NAME is not set")
COMPANY_ADDRESS: str = env.str("COMPANY_ADDRESS", default="")
COMPANY_EMAIL: str = env.str("COMPANY_EMAIL", default="")
COMPANY_TAX_ID: str = env.str("COMPANY_TAX_ID", default="")
COMPANY_PAYMENT: str = env.str("COMPANY_PAYMENT", default="")
# Prices include tax: so many percent of it, by this name.
TAX_LABEL: str = env.str("TAX_LABEL", default="Tax")
TAX_PERCENT: str = percent("TAX_PERCENT", default="0")
TAX_NOTE: str = env.str("TAX_NOTE", default="")
# Before the number of an invoice wherever it leaves the house; two installations on one Stripe account need two.
INVOICE_NUMBER_PREFIX: str = env.str("INVOICE_NUMBER_PREFIX", default="GF-")
# Without a key invoices are made and finalised, and not sent.
STRIPE_API_KEY: str = env.str("STRIPE_API_KEY", default="")
STRIPE_API_BASE: str = env.str("STRIPE_API_BASE", default="https://api.stripe.com")
STRIPE_WEBHOOK_SECRET: str = env.str("STRIPE_WEBHOOK_SECRET", default="")
# On: /metrics answers without a key. Else it wants one with the scope `read` that is bound to no tenant.
METRICS_OPEN: bool = env.bool("METRICS_OPEN", default=False)
# Where several web processes of one machine sum up what they count of their requests; prometheus-client reads it too.
PROMETHEUS_MULTIPROC_DIR: str = env.str("PROMETHEUS_MULTIPROC_DIR", default="")
# The console takes a name and a password. Off: single sign-on alone.
PASSWORD_LOGIN: bool = env.bool("PASSWORD_LOGIN", default=True)
# Single sign-on through an OpenID Connect provider, where all three are set and requirements-oidc.txt is installed.
OIDC_ISSUER: str = env.str("OIDC_ISSUER", default="")
OIDC_CLIENT_ID: str = env.str("OIDC_CLIENT_ID", default="")
OIDC_CLIENT_SECRET: str = env.str("OIDC_CLIENT_SECRET", default="")
OIDC_SCOPES: str = env.str("OIDC_SCOPES", default="openid profile email")
OIDC_SIGN_ALGORITHM: str = env.str("OIDC_SIGN_ALGORITHM", default="RS256")
# The claim with a person's groups, and which of them stands for which of ours.
OIDC_GROUPS_CLAIM: str = env.str("OIDC_GROUPS_CLAIM", default="groups")
OIDC_GROUPS: dict[str, str] = pairs(
    "OIDC_GROUPS", default="operator:operator,finance:finance,viewer:viewer,administrator:administrator"
)
SINGLE_SIGN_ON = bool(
    OIDC_ISSUER and OIDC_CLIENT_ID and OIDC_CLIENT_SECRET and find_spec("mozilla_django_oidc") is not None
)
# The console's address as people reach it, for the links in messages; empty: links are paths.
PUBLIC_URL: str = env.str("PUBLIC_URL", default="")
# Hosts and networks that a webhook of an alert may lead to though they are not public, or speak plain HTTP.
ALERT_WEBHOOK_ALLOW: list[str] = env.list("ALERT_WEBHOOK_ALLOW", default=[])
# Days that alerts that are over, and their messages, are kept; 7 at least.
ALERT_HISTORY_DAYS: int = env.int("ALERT_HISTORY_DAYS", default=400)
# Where alerts by e-mail go out, such as smtp+tls://user:password@mail.example:587; empty: none is sent.
globals().update(env.email_url("EMAIL_URL", default="smtp://"))
DEFAULT_FROM_EMAIL: str = env.str("EMAIL_FROM", default="gpufleet@localhost")
EMAIL_TIMEOUT = 10
# The finest-grained body that the API reads into memory. A batch of 5,000 samples is about 1 MiB.
DATA_UPLOAD_MAX_MEMORY_SIZE = 4 * 1024 * 1024

INSTALLED_APPS = [
    "unfold.apps.BasicAppConfig",  # Without its own admin site: the next but one brings ours.
    "unfold.contrib.filters",
    "dashboard.apps.ConsoleConfig",  # django.contrib.admin with the console as its site.
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.postgres",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "gpufleet.apps.GpufleetConfig",
    "gpufleet.common",
    "tenants",
    "apikeys",
    "clusters",
    "jobs",
    "billing",
    "alerts",
    "dashboard",
]

MIDDLEWARE = [
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "gpufleet.common.middleware.RequestIdMiddleware",
    "gpufleet.common.middleware.AccessLogMiddleware",
    "gpufleet.common.middleware.TrailingSlashMiddleware",
    "gpufleet.common.middleware.DemoVisitorMiddleware",
    "gpufleet.common.middleware.ContentSecurityPolicyMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_prometheus.middleware.PrometheusAfterMiddleware",
]

ROOT_URLCONF = "gpufleet.urls"
WSGI_APPLICATION = "gpufleet.wsgi.application"
APPEND_SLASH = False  # A redirect would lose a POST's body; the API routes take both forms themselves.

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "dashboard" / "templates"],  # Before unfold's, of which it replaces some.
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES: dict[str, dict[str, Any]] = {"default": env.db_url("DATABASE_URL", engine="django.db.backends.postgresql")}
# The alias of the database that holds samples and their rollups.
SAMPLES_DATABASE = "default"
if env.str("METRICS_DATABASE_URL", default=""):
    SAMPLES_DATABASE = "samples"
    DATABASES["samples"] = env.db_url("METRICS_DATABASE_URL", engine="django.db.backends.postgresql")
for database in DATABASES.values():
    database["CONN_MAX_AGE"] = env.int("CONN_MAX_AGE", default=60)
    database["CONN_HEALTH_CHECKS"] = True
    database.setdefault("OPTIONS", {}).setdefault("connect_timeout", 5)
DATABASE_ROUTERS = ["clusters.sampledb.SamplesRouter"]

REDIS_URL: str = env.str("REDIS_URL", default="redis://127.0.0.1:6379/0")
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": REDIS_URL,
        "KEY_PREFIX": "gpufleet",
        "OPTIONS": {"socket_timeout": 1, "socket_connect_timeout": 1},
    }
}

CELERY_BROKER_URL = celery_url(REDIS_URL)
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_SERIALIZER = "json"
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TIMEZONE = "UTC"
CELERY_BEAT_SCHEDULE = BEAT_SCHEDULE
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_TRANSPORT_OPTIONS = {"socket_timeout": 5, "socket_connect_timeout": 1, "max_retries": 1}
CELERY_TASK_PUBLISH_RETRY = False  # A doorbell that can't be rung now is not rung; the beat is the guarantee.
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_TASK_TIME_LIMIT = 300

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": ["apikeys.authentication.BearerKeyAuthentication"],
    "DEFAULT_PERMISSION_CLASSES": ["tenants.permissions.HasScope"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "gpufleet.common.negotiation.OneRenderer",
    "DEFAULT_PARSER_CLASSES": ["gpufleet.common.parsing.StrictJSONParser"],
    "DEFAULT_PAGINATION_CLASS": "gpufleet.common.pagination.LinkPagination",
    "DEFAULT_FILTER_BACKENDS": ["gpufleet.common.query.StrictFilterBackend"],
    "DEFAULT_SCHEMA_CLASS": "gpufleet.common.schema.ContractSchema",
    "DEFAULT_METADATA_CLASS": None,
    "EXCEPTION_HANDLER": "gpufleet.common.problems.exception_handler",
    "NUM_PROXIES": TRUSTED_PROXIES,
    "UNAUTHENTICATED_USER": None,
    "COERCE_DECIMAL_TO_STRING": True,
    "DATETIME_FORMAT": "%Y-%m-%dT%H:%M:%S.%fZ",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}

SPECTACULAR_SETTINGS = {
    "TITLE": "gpufleet",
    "DESCRIPTION": "The control plane of a GPU cloud: who has which GPU, what it earned, and what was lost and why.",
    "VERSION": "0.1.0",
    "OAS_VERSION": "3.1.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.AllowAny"],
    "SERVE_AUTHENTICATION": [],
    "SCHEMA_PATH_PREFIX": "/api",
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": True,
    "ENUM_GENERATE_CHOICE_DESCRIPTION": False,
    # Fields of one name with different choices, which would otherwise be named by a digest.
    "ENUM_NAME_OVERRIDES": {
        "TenantStatus": "tenants.models.TenantStatus",
        "ClusterStatus": "clusters.models.ClusterStatus",
        "NodeStatus": "clusters.models.NodeStatus",
        "JobStatus": "jobs.models.JobStatus",
        "RunState": "jobs.models.RunState",
        "GpuState": "clusters.models.GPUState",
        "InvoiceStatus": "billing.models.InvoiceStatus",
        "InvoiceMove": "billing.serializers.INVOICE_MOVES",
        "CreditNoteStatus": "billing.models.CreditNoteStatus",
        "KeyKind": "apikeys.models.KeyKind",
        "CreditNoteKind": "billing.models.NoteKind",
        "CreditNoteDecision": "billing.credit_serializers.DECISIONS",
        "FaultState": "billing.models.FAULT_STATES",
        "IncidentStatus": "alerts.models.EventStatus",
        "Severity": "alerts.models.Severity",
        "ChannelKind": "alerts.models.ChannelKind",
    },
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "gpufleet.common.schema.describe_contract",
    ],
}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]

AUTHENTICATION_BACKENDS = [
    "django.contrib.auth.backends.ModelBackend",
    *(["dashboard.single_sign_on.SingleSignOn"] if SINGLE_SIGN_ON else []),
]
LOGIN_URL = "admin:login"
LOGIN_REDIRECT_URL = reverse_lazy("admin:index")

LANGUAGE_CODE = "en-us"
USE_I18N = False
TIME_ZONE = "UTC"
USE_TZ = True
FORMAT_MODULE_PATH = "dashboard.formats"  # Instants in the console are written as logs write them.
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

STATIC_URL = "/static/"
STATIC_ROOT = Path(env.str("STATIC_ROOT", default=str(BASE_DIR / "staticfiles")))
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": env.str(
            "STATICFILES_STORAGE", default="django.contrib.staticfiles.storage.ManifestStaticFilesStorage"
        )
    },
}

# Behind TLS these are turned on together; `make up` serves plain HTTP on the loopback interface.
HTTPS_ONLY: bool = env.bool("HTTPS_ONLY", default=False)
SECURE_SSL_REDIRECT = HTTPS_ONLY
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$"]
SESSION_COOKIE_SECURE = HTTPS_ONLY
CSRF_COOKIE_SECURE = HTTPS_ONLY
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS_ONLY else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = HTTPS_ONLY
SECURE_HSTS_PRELOAD = HTTPS_ONLY
if env.bool("TRUST_PROXY_TLS_HEADER", default=False):
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
SESSION_COOKIE_AGE = 12 * 60 * 60
X_FRAME_OPTIONS = "DENY"
# Of the console's pages. Nothing inline, and no text becomes code.
CONSOLE_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

LOGGING_CONFIG = "gpufleet.log.configure"
LOGGING = logging_config(level=env.str("LOG_LEVEL", default="INFO"), json=not DEBUG)

UNFOLD: dict[str, Any] = {
    "SITE_TITLE": "gpufleet",
    "SITE_HEADER": "gpufleet",
    "SITE_SYMBOL": "developer_board",
    "SITE_URL": None,
    "SITE_FAVICONS": [{"rel": "icon", "type": "image/svg+xml", "href": "dashboard.admin_site.favicon"}],
    "SHOW_HISTORY": True,
    "SHOW_VIEW_ON_SITE": False,
    "STYLES": ["dashboard.admin_site.stylesheet"],
    "SCRIPTS": ["dashboard.admin_site.script"],
    "SIDEBAR": {"show_search": True, "navigation": "dashboard.admin_site.sidebar"},
}
