"""The four groups of people. A model that comes later is given to them by a migration like 0002, which does this again.

Django makes permissions only after all migrations have run, so they are made here first, as they stand at this point.
"""

from django.contrib.auth.management import create_permissions
from django.db import migrations

HOUSE = ("common", "tenants", "apikeys", "clusters", "jobs", "billing", "alerts")

# group: what it may do beyond looking, as (app, model or every model, actions).
OPERATOR = (
    ("tenants", "tenant", ("add", "change")),
    ("clusters", "node", ("change",)),
    ("clusters", "gpu", ("change",)),
    ("jobs", "job", ("change",)),
    ("alerts", None, ("add", "change")),
)
FINANCE = (("billing", None, ("add", "change")),)
ADMINISTRATOR = tuple((app, None, ("add", "change", "delete", "view")) for app in (*HOUSE, "auth"))
GROUPS = {"viewer": (), "operator": OPERATOR, "finance": FINANCE, "administrator": ADMINISTRATOR}


def make_permissions(apps, schema_editor):
    for label in (*HOUSE, "auth"):
        config = apps.get_app_config(label)
        before = getattr(config, "models_module", None)
        config.models_module = True  # A historical app has none, and would be passed over.
        create_permissions(config, apps=apps, verbosity=0, using=schema_editor.connection.alias)
        config.models_module = before


def may(apps, app, model, actions):
    permissions = apps.get_model("auth", "Permission").objects.filter(content_type__app_label=app)
    if model is not None:
        permissions = permissions.filter(content_type__model=model)
    return [one for one in permissions if one.codename.split("_")[0] in actions]


def add_groups(apps, schema_editor):
    make_permissions(apps, schema_editor)
    looking = [one for app in HOUSE for one in may(apps, app, None, ("view",))]
    for name, beyond in GROUPS.items():
        group, _ = apps.get_model("auth", "Group").objects.get_or_create(name=name)
        group.permissions.add(*looking, *(one for rule in beyond for one in may(apps, *rule)))


def remove_groups(apps, schema_editor):
    apps.get_model("auth", "Group").objects.filter(name__in=GROUPS).delete()


class Migration(migrations.Migration):
    initial = True

    dependencies = [
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
        ("common", "0001_initial"),
        ("tenants", "0001_initial"),
        ("apikeys", "0001_initial"),
        ("clusters", "0001_initial"),
        ("jobs", "0001_initial"),
        ("billing", "0001_initial"),
        ("alerts", "0001_initial"),
    ]

    operations = [migrations.RunPython(add_groups, remove_groups)]
