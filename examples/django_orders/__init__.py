"""A Django project that places orders, and a FastAPI service that knows what customers may spend. See
docs/how-to/django.md."""
