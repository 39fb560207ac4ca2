"""What `manage.py ensue` names to Ensue's own command line: `ensue.integrations.django.target:service`, and
`...target:billing` for another service of the project, of that name.

Also imported by the processes that `ensue run --processes` starts, which know nothing of manage.py.
"""

from __future__ import annotations

import django
from django.apps import apps

if not apps.ready:
    django.setup()

from ensue.errors import UsageError
from ensue.integrations.django.project import all_services  # after the apps are there
from ensue.integrations.django.service import DjangoService

_services = {each.name: each for each in all_services()}
service = next(iter(_services.values()))


def __getattr__(name: str) -> DjangoService:
    if name.startswith("__"):
        raise AttributeError(name)
    if name not in _services:
        raise UsageError(
            f"this project has no service {name!r}, but {', '.join(_services)}. Is it a DjangoService that a module "
            "events.py or handlers.py of an app in INSTALLED_APPS declares?",
            found=name,
        )
    return _services[name]
