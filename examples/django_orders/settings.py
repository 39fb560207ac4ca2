"""Of the example. ORDERS_DATABASE: a file, or `postgresql://user:password@host:port/name`. SHOP_BROKER: a URL."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import unquote, urlsplit

SECRET_KEY = os.environ.get("DJANGO_SECRET_KEY", "of an example, which keeps no secrets")
DEBUG = False
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "testserver"]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "ensue.integrations.django",
    "django_orders.orders",
]
MIDDLEWARE = [
    "ensue.integrations.django.middleware.CorrelationMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
ROOT_URLCONF = "django_orders.urls"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.PBKDF2PasswordHasher"]
STATIC_URL = "static/"
USE_TZ = True
TIME_ZONE = "UTC"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"


def _database(where: str) -> dict[str, Any]:
    if not where.startswith("postgresql:"):
        # A transaction that reads first takes the lock for writing at its beginning, not in the middle of it.
        options = {"transaction_mode": "IMMEDIATE", "timeout": 20}
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": where, "OPTIONS": options}
    url = urlsplit(where)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": url.path.lstrip("/"),
        "USER": unquote(url.username or ""),
        "PASSWORD": unquote(url.password or ""),
        "HOST": url.hostname or "",
        "PORT": str(url.port or ""),
    }


DATABASES = {"default": _database(os.environ.get("ORDERS_DATABASE", "orders.db"))}

ENSUE = {
    "SERVICE": "web-orders",
    "BROKER": os.environ.get("SHOP_BROKER", "sqlite:///broker.db"),
    "PUBLISHES": [
        "django_orders.contracts.OrderPlaced",
        "django_orders.contracts.OrderOpened",
        "django_orders.contracts.OrderRejected",
    ],
}
