"""Problem documents as answers of Django's."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse

from ensue.integrations.problem_documents import MEDIA_TYPE, Told, document, malformed_header
from ensue.integrations.request_headers import MalformedHeader


def problem(request: HttpRequest, told: Told, **extra: Any) -> HttpResponse:
    body = document(request.path, told.status, told.title, told.detail, type=told.type, **extra)
    return HttpResponse(body, status=told.status, content_type=MEDIA_TYPE, headers=dict(told.headers))


def malformed(request: HttpRequest, error: MalformedHeader) -> HttpResponse:
    return problem(request, malformed_header(str(error)), header=error.name)
