"""Of Django in the process of the tests. Each test gives `default` and `server` databases of its own."""

SECRET_KEY = "of tests alone"
INSTALLED_APPS = [
    "django.contrib.contenttypes",
    "django.contrib.auth",
    "ensue.integrations.django",
    "tests.django.desk",
]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "none.db"}}
ENSUE = {"SERVICE": "django-desk", "BROKER": "memory:"}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
