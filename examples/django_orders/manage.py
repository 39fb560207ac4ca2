#!/usr/bin/env python
"""Django's commands for this project: `python manage.py migrate`, `python manage.py ensue run`."""

import os
import sys
from pathlib import Path

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where the package django_orders is
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "django_orders.settings")
    execute_from_command_line(sys.argv)
