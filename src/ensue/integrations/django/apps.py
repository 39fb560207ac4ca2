"""The Django app: `"ensue.integrations.django"` in INSTALLED_APPS."""

from __future__ import annotations

from django.apps import AppConfig
from django.conf import settings
from django.core import checks
from django.utils.module_loading import autodiscover_modules


class EnsueConfig(AppConfig):
    name = "ensue.integrations.django"
    label = "ensue"
    verbose_name = "Ensue"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from ensue.integrations.django.checks import check_settings, check_tables
        from ensue.integrations.django.project import declare_publications, service

        checks.register(check_settings)
        checks.register(check_tables, checks.Tags.database)
        # Of every installed app: there events and handlers are declared.
        autodiscover_modules("events", "handlers")
        if hasattr(settings, "ENSUE"):  # else `check` says so
            declare_publications(service())
