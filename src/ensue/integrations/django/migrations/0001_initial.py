"""Ensue's tables, and the models by which the admin shows some of them."""

from django.db import migrations, models

from ensue.integrations.django.operations import MakeEnsueTables
from ensue.message import DeadLetterState


class Migration(migrations.Migration):
    initial = True
    dependencies = ()
    operations = (
        MakeEnsueTables(),
        migrations.CreateModel(
            name="DeadLetter",
            fields=[
                ("id", models.CharField(max_length=191, primary_key=True, serialize=False)),
                ("place", models.TextField(verbose_name="topic/partition")),
                ("number", models.BigIntegerField()),
                (
                    "state",
                    models.CharField(choices=[(each.value, each.value) for each in DeadLetterState], max_length=191),
                ),
                ("log_offset", models.BigIntegerField(verbose_name="offset")),
                ("position", models.BigIntegerField()),
                ("record_key", models.BinaryField()),
                ("envelope", models.BinaryField()),
                ("data", models.BinaryField()),
                ("attempts", models.BigIntegerField()),
                ("due_at", models.FloatField()),
                ("error_type", models.TextField()),
                ("error", models.TextField()),
                ("parked_at", models.FloatField()),
            ],
            options={
                "verbose_name": "dead letter",
                "db_table": "ensue_dead_letter",
                "ordering": ("parked_at", "id"),
                "default_permissions": ("change", "view"),
                "managed": False,
            },
        ),
        migrations.CreateModel(
            name="Decision",
            fields=[
                ("id", models.CharField(max_length=191, primary_key=True, serialize=False)),
                ("decided_at", models.FloatField()),
                ("actor", models.TextField()),
                ("origin", models.CharField(max_length=191)),
                ("action", models.CharField(max_length=191)),
                ("target", models.TextField()),
                ("reason", models.TextField()),
                ("state_before", models.TextField(verbose_name="before")),
                ("state_after", models.TextField(verbose_name="after")),
            ],
            options={
                "db_table": "ensue_decision",
                "ordering": ("-decided_at", "-id"),
                "default_permissions": ("view",),
                "managed": False,
            },
        ),
    )
