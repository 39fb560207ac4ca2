"""What `manage.py ensue` names to Ensue's own command line: `ensue.integrations.django.target:service`.

Also imported by the processes that `ensue run --processes` starts, which know nothing of manage.py.
"""

from __future__ import annotations

import django
from django.apps import apps

if not apps.ready:
    django.setup()

from ensue.integrations.django.project import service as _service  # after the apps are there

service = _service()
