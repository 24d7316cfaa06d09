"""Latest readings are renewed once a second: room on their pages, so that a renewal stays on its page and touches no
index. It holds for pages that are written from now on, and locks out no reader or writer for longer than a moment.
"""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("clusters", "0051_gpu_counts")]

    operations = [
        migrations.RunSQL(
            "ALTER TABLE clusters_latestreading SET (fillfactor = 50)",
            "ALTER TABLE clusters_latestreading RESET (fillfactor)",
        ),
    ]
