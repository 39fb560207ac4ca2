"""A Django view with an Idempotency-Key: effect and answer are one transaction, and the answer is given again."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connections, transaction
from django.http import FileResponse, Http404, HttpRequest, HttpResponse, JsonResponse
from django.template import engines
from django.template.response import TemplateResponse
from django.test import Client, RequestFactory, override_settings
from django.urls import path
from django.utils.decorators import method_decorator
from django.views import View
from tests.django.desk.contracts import DjangoTicketOpened as Opened
from tests.django.desk.models import Ticket
from tests.sessions.desk import published

from ensue.errors import UsageError
from ensue.integrations.django import DjangoService, idempotent
from ensue.integrations.django.publishing import publish

#: Each view's, in the tests that count its calls.
calls: list[str] = []


@pytest.fixture(autouse=True)
def no_calls() -> None:
    calls.clear()


def ticket(desk: DjangoService, request: Any) -> int:
    """What a view does: a row, and its event."""
    calls.append(request.path)
    with transaction.atomic(using=desk.using):
        number = int(Ticket.objects.using(desk.using).count()) + 1
        Ticket.objects.using(desk.using).create(id=number)
        publish(desk, [Opened(ticket_id=number)], None, None, None)
    return number


def effects(desk: DjangoService) -> tuple[int, int]:
    return Ticket.objects.using(desk.using).count(), len(published(desk))


@contextlib.contextmanager
def serving(*views: tuple[str, Any], middleware: tuple[str, ...] = ()) -> Iterator[Client]:
    urls: Any = ModuleType("urls")
    urls.urlpatterns = [path(where, view) for where, view in views]
    with override_settings(ROOT_URLCONF=urls, MIDDLEWARE=middleware, ALLOWED_HOSTS=["testserver"]):
        yield Client(raise_request_exception=False)


def send(client: Client, where: str, body: object = None, key: str | None = "k", **options: Any) -> Any:
    """A request, as it goes out again and again: from a client that has seen no answer, and no cookies."""
    headers = {**({} if key is None else {"Idempotency-Key": key}), **options.pop("headers", {})}
    method = options.pop("method", "POST")
    return _fresh(client).generic(method, where, json.dumps(body), "application/json", headers=headers, **options)


def opening(desk: DjangoService, **options: Any) -> Callable[..., HttpResponse]:
    @idempotent(service=desk, **options)
    def place(request: HttpRequest) -> HttpResponse:
        number = ticket(desk, request)
        headers = {"Location": f"/{number}", "Date": "now", "X-Correlation-Id": "own"}
        response = JsonResponse({"id": number}, status=201, headers=headers)
        response.set_cookie("seen", "1")
        return response

    return place


@pytest.mark.parametrize("atomic_requests", [False, True], ids=["plain", "ATOMIC_REQUESTS"])
def test_the_same_request_takes_effect_once_and_has_the_same_answer(
    desk: DjangoService, atomic_requests: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.settings[desk.using], "ATOMIC_REQUESTS", atomic_requests)
    with serving(("orders/", opening(desk)), ("others/", opening(desk))) as client:
        first, again = [send(client, "/orders/", {"total": 1}) for _ in range(2)]
        other = send(client, "/orders/", {"total": 2})
        query = send(client, "/orders/?express=1", {"total": 1})
        assert effects(desk) == (1, 1)
        elsewhere = [
            send(client, "/others/", {"total": 1}),
            send(client, "/orders/", {"total": 1}, method="PUT"),
            send(client, "/orders/", {"total": 1}, key="another"),
            send(client, "/orders/", {"total": 1}, key=None),
            send(client, "/orders/", {"total": 1}, key=None),
        ]
    assert [each.status_code for each in (first, again, other, query)] == [201, 201, 422, 422]
    assert (again.content, again.headers["Content-Type"]) == (first.content, "application/json")
    assert (again.headers["Location"], again.headers["Idempotency-Replayed"]) == ("/1", "true")
    assert not {"date", "x-correlation-id", "set-cookie"} & {each.lower() for each in again.headers}
    assert not again.cookies
    assert "Idempotency-Replayed" not in first.headers
    assert other.headers["Content-Type"] == "application/problem+json"
    assert other.json()["type"] == "urn:ensue:problem:idempotency-mismatch"
    assert (other.json()["title"], other.json()["instance"]) == ("Idempotency-Key used before", "/orders/")
    assert [each.json()["id"] for each in elsewhere] == [2, 3, 4, 5, 6]
    assert effects(desk) == (6, 6)


@pytest.mark.parametrize("atomic_requests", [False, True], ids=["plain", "ATOMIC_REQUESTS"])
def test_what_is_rolled_back_is_not_kept(
    desk: DjangoService, atomic_requests: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.settings[desk.using], "ATOMIC_REQUESTS", atomic_requests)

    @idempotent(service=desk)
    def place(request: HttpRequest, how: str) -> HttpResponse:
        ticket(desk, request)
        if how == "raises":
            raise Http404
        if how == "marks":
            transaction.set_rollback(True, using=desk.using)
        return HttpResponse(how, status={"fails": 503, "refuses": 409}.get(how, 200))

    with serving(("<how>/", place)) as client:
        for how, status in (("raises", 404), ("fails", 503), ("marks", 200)):
            for key in ("k", None) if how == "fails" else ("k",):
                assert send(client, f"/{how}/", key=key).status_code == status
                again = send(client, f"/{how}/", key=key)
                assert (again.status_code, "Idempotency-Replayed" in again.headers) == (status, False)
        assert (len(calls), effects(desk)) == (8, (0, 0))
        # The view has decided on this one.
        assert [send(client, "/refuses/").status_code for _ in range(2)] == [409, 409]
    assert (len(calls), effects(desk)) == (9, (1, 1))


def test_an_answer_that_a_failing_decorator_above_takes_back_is_not_kept(
    desk: DjangoService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.settings[desk.using], "ATOMIC_REQUESTS", True)
    place = opening(desk)
    broken = [True]

    def failing(request: HttpRequest) -> HttpResponse:
        response = place(request)
        if broken:
            raise ZeroDivisionError
        return response

    with serving(("orders/", failing)) as client:
        assert send(client, "/orders/").status_code == 500
        assert effects(desk) == (0, 0)
        broken.clear()
        assert "Idempotency-Replayed" not in send(client, "/orders/").headers
    assert effects(desk) == (1, 1)


def test_of_two_at_once_one_takes_effect(desk: DjangoService) -> None:
    """On SQLite the second one waits, since there is one writer, and has the same answer; on PostgreSQL it meets the
    first one's answer when it is about to keep its own."""
    within, go = threading.Event(), threading.Event()
    answers: dict[str, Any] = {}

    @idempotent(service=desk)
    def place(request: HttpRequest) -> HttpResponse:
        slow = not within.is_set()
        calls.append("")
        within.set()
        if slow:
            assert go.wait(20)
        Ticket.objects.using(desk.using).create(id=len(calls) if slow else 10)
        return HttpResponse("placed", status=201)

    def ask(name: str) -> None:
        answers[name] = send(Client(), "/orders/")
        connections[desk.using].close()

    with serving(("orders/", place)) as client:
        slow, quick = (threading.Thread(target=ask, args=[name]) for name in ("slow", "quick"))
        slow.start()
        assert within.wait(20)
        quick.start()
        if desk.using == "server":
            quick.join(20)  # it needs not wait, since nothing is kept yet
        go.set()
        slow.join(20)
        quick.join(20)
        again = send(client, "/orders/")
    assert (again.status_code, again.headers["Idempotency-Replayed"]) == (201, "true")
    assert Ticket.objects.using(desk.using).count() == 1
    if desk.using == "server":
        assert (answers["quick"].status_code, answers["slow"].status_code) == (201, 409)
        assert answers["slow"].headers["Retry-After"] == "1"
        assert answers["slow"].json()["type"] == "urn:ensue:problem:idempotency-conflict"
    else:
        assert [each.status_code for each in answers.values()] == [201, 201]
        assert "Idempotency-Replayed" in answers["quick"].headers


def test_a_process_that_is_killed_with_its_answer_kept_and_not_committed_has_done_nothing(
    desk: DjangoService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(connections.settings[desk.using], "ATOMIC_REQUESTS", True)
    place, deadly = opening(desk), [True]

    def killed(request: HttpRequest) -> HttpResponse:
        response = place(request)  # as the last thing before the commit
        if deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return response

    connections[desk.using].close()
    with serving(("orders/", killed)) as client:
        child = os.fork()
        if not child:
            try:
                send(client, "/orders/")
            finally:
                os._exit(1)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
        deadly.clear()
        assert effects(desk) == (0, 0)
        answers = [send(client, "/orders/") for _ in range(2)]
    assert [(each.status_code, each.json()) for each in answers] == [(201, {"id": 1})] * 2
    assert effects(desk) == (1, 1)


@pytest.mark.parametrize("alias", ["sqlite"], indirect=True)
def test_a_key_belongs_to_who_asks(desk: DjangoService) -> None:
    users = {name: User(pk=number, username=name) for number, name in enumerate(("ann", "bob"), 1)}

    def let_in(place: Any) -> Any:
        def asked(request: Any) -> HttpResponse:
            request.user = users[request.headers["X-Name"]]
            return place(request)

        return asked

    by_name = opening(desk, principal=lambda request: request.user.username)
    with serving(("orders/", let_in(opening(desk))), ("named/", let_in(by_name))) as client:
        send(client, "/orders/", headers={"X-Name": "ann"})
        assert send(client, "/orders/", headers={"X-Name": "bob"}).json()["id"] == 2
        assert send(client, "/orders/", headers={"X-Name": "ann"}).json()["id"] == 1
        # A token of one's own says who asks, whoever one is.
        token = {"X-Name": "ann", "Authorization": "Bearer a"}
        assert send(client, "/orders/", headers=token).json()["id"] == 3
        assert send(client, "/orders/", headers={"X-Name": "ann"}, REMOTE_USER="ann").json()["id"] == 4
        assert send(client, "/orders/", headers={"X-Name": "ann"}, SSL_CLIENT_S_DN="CN=ann").json()["id"] == 5
        # Who says it better is asked alone.
        assert send(client, "/named/", headers=token).json()["id"] == 6
        assert send(client, "/named/", headers={**token, "Authorization": "Bearer b"}).json()["id"] == 6
        assert send(client, "/named/", headers={**token, "X-Name": "bob"}).json()["id"] == 7
    secrets = json.dumps(_kept(desk), default=str)
    assert "Bearer" not in secrets
    wrong: Any = opening(desk, principal=lambda request: None)
    with pytest.raises(UsageError, match="principal= returned a NoneType, expected a str"):
        wrong(RequestFactory().post("/orders/", headers={"Idempotency-Key": "k"}))


def _kept(desk: DjangoService) -> list[Any]:
    with connections[desk.using].cursor() as cursor:
        cursor.execute("SELECT response_key, fingerprint, headers FROM ensue_response")
        return list(cursor.fetchall())


@pytest.mark.parametrize("alias", ["sqlite"], indirect=True)
def test_keys_that_are_none_are_refused_and_mean_nothing_where_nothing_changes(desk: DjangoService) -> None:
    with serving(("orders/", opening(desk))) as client:
        for key in ("", "é", "a\x00b", "k" * 256, "tab\t"):
            refused = send(client, "/orders/", key=key)
            assert (refused.status_code, refused.headers["Content-Type"]) == (400, "application/problem+json")
            assert refused.json()["header"] == "Idempotency-Key"
            assert refused.json()["title"] == "Malformed header"
        for key in ("'; DROP TABLE ensue_response; --", '{"a": 1}', "k, k", "k" * 255):
            assert [send(client, "/orders/", key=key).status_code for _ in range(2)] == [201, 201]
        assert effects(desk) == (4, 4)
        client.get("/orders/", headers={"Idempotency-Key": "k"})
        client.get("/orders/", headers={"Idempotency-Key": "é"})
    assert effects(desk) == (6, 6)


def _fresh(client: Client) -> Client:
    client.cookies.clear()
    return client


class Broken:
    """What a client sends that goes away in the middle."""

    def read(self, size: int | None = None) -> bytes:
        raise OSError("reset")

    readline = read


@pytest.mark.parametrize("alias", ["sqlite"], indirect=True)
def test_bodies_of_any_kind_make_a_request_the_same_or_another_one(desk: DjangoService) -> None:
    def form(text: str, content: bytes, key: str = "k", **options: Any) -> Any:
        data = {"who": ["ann", text], "file": SimpleUploadedFile("a.txt", content, "text/plain")}
        return client.post("/files/", data, headers={"Idempotency-Key": key}, **options)

    @idempotent(service=desk)
    def keep(request: HttpRequest) -> HttpResponse:
        ticket(desk, request)
        return HttpResponse(request.FILES["file"].read() + request.POST["who"].encode())

    def parsed_before(request: HttpRequest) -> HttpResponse:
        assert request.POST  # as the check of CSRF tokens does
        return keep(request)

    for view in (keep, parsed_before):
        name = view.__qualname__
        with serving(("files/", view), ("orders/", opening(desk))) as client:
            assert form("x", b"\x00 1", name).content == b"\x00 1x"
            assert form("x", b"\x00 1", name).headers["Idempotency-Replayed"] == "true"
            assert form("y", b"\x00 1", name).status_code == 422
            assert form("x", b"\x00 2", name).status_code == 422
            assert form("x", b"\x00" * 3_000_000, f"{name} large").status_code == 200  # more than Django takes else
    with serving(("files/", keep), ("orders/", opening(desk))) as client:
        # Without Django's client, the boundary is drawn anew each time.
        body = '--{0}\r\nContent-Disposition: form-data; name="who"\r\n\r\nann\r\n--{0}\r\n' + (
            'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\nb\r\n--{0}--\r\n'
        )
        answers = [
            client.generic(
                "POST", "/files/", body.format(each), f"multipart/form-data; boundary={each}",
                headers={"Idempotency-Key": "drawn"},
            )
            for each in ("aa", "bb")
        ]  # fmt: skip
        assert ["Idempotency-Replayed" in each.headers for each in answers] == [False, True]
        kinds = [
            _fresh(client).generic("POST", "/orders/", b"a=1", kind, headers={"Idempotency-Key": "kind"})
            for kind in ("application/x-www-form-urlencoded", "text/plain", "text/plain")
        ]
        assert [each.status_code for each in kinds] == [201, 422, 422]
        for ends in (Broken(), io.BytesIO(b"nul")):  # by an error, and by an end that is too early
            gone = send(client, "/orders/", key="gone", **{"wsgi.input": ends})
            assert (gone.status_code, gone.json()["detail"]) == (400, "The connection ended before the body did")


@pytest.mark.parametrize("alias", ["sqlite"], indirect=True)
def test_views_of_every_kind_have_it_and_what_cannot_be_kept_is_refused(desk: DjangoService) -> None:
    once = idempotent(service=desk)

    class Orders(View):
        @once
        def post(self, request: HttpRequest, number: int) -> HttpResponse:
            return HttpResponse(f"{number} {ticket(desk, request)}")

        @method_decorator(once)
        def put(self, request: HttpRequest, number: int) -> HttpResponse:
            # A template is rendered with its transaction.
            template: Any = engines["django"].from_string("{{ number }} {{ id }}")
            return TemplateResponse(request, template, {"number": number, "id": ticket(desk, request)})

        @once
        def patch(self, request: HttpRequest, number: int) -> FileResponse:
            ticket(desk, request)
            return FileResponse(iter([b"a"]))

        @once
        def delete(self, request: HttpRequest, number: int) -> Any:
            ticket(desk, request)

    @once
    def without_type(request: HttpRequest) -> HttpResponse:
        response = HttpResponse(status=204)
        del response.headers["Content-Type"]
        return response

    nested = once(lambda request: Orders.as_view()(request, number=1))
    templates = [{"BACKEND": "django.template.backends.django.DjangoTemplates"}]
    orders = ("orders/<int:number>/", Orders.as_view())
    with (
        override_settings(TEMPLATES=templates),
        serving(orders, ("empty/", without_type), ("nested/", nested)) as client,
    ):
        for method, expected in (("POST", b"7 1"), ("PUT", b"7 2")):
            assert [send(client, "/orders/7/", method=method).content for _ in range(2)] == [expected] * 2
        assert "Content-Type" not in [send(client, "/empty/") for _ in range(2)][1].headers
        client.raise_request_exception = True
        with pytest.raises(UsageError, match="PATCH /orders/7/: a FileResponse has no body that could be kept"):
            send(client, "/orders/7/", method="PATCH")
        with pytest.raises(UsageError, match="DELETE /orders/7/ returned a NoneType"):
            send(client, "/orders/7/", method="DELETE")
        with pytest.raises(UsageError, match="POST /nested/: @idempotent within another @idempotent"):
            send(client, "/nested/")
        assert effects(desk) == (2, 2)
        assert b"".join(send(client, "/orders/7/", key=None, method="PATCH")) == b"a"
    assert effects(desk) == (3, 3)


@pytest.mark.parametrize("alias", ["sqlite"], indirect=True)
def test_views_of_django_rest_framework_have_it_behind_their_permissions(desk: DjangoService) -> None:
    pytest.importorskip("rest_framework")
    from rest_framework.decorators import api_view
    from rest_framework.exceptions import ValidationError
    from rest_framework.permissions import BasePermission
    from rest_framework.renderers import JSONRenderer
    from rest_framework.response import Response
    from rest_framework.views import APIView

    once = idempotent(service=desk)

    class Named(BasePermission):
        def has_permission(self, request: Any, view: Any) -> bool:
            return "X-Name" in request.headers

    class Orders(APIView):
        permission_classes = (Named,)
        renderer_classes = (JSONRenderer,)

        @once
        def post(self, request: Any) -> Response:
            return self.place(request)

        @method_decorator(once)
        def put(self, request: Any) -> Response:
            return self.place(request)

        def place(self, request: Any) -> Response:
            number = ticket(desk, request)
            if not request.data:
                raise ValidationError({"body": "is empty"})
            return Response({"id": number, "of": request.data}, 201, headers={"Location": "/1"})

    @api_view(["POST"])
    @once
    def place(request: Any) -> Response:
        return Response({"id": ticket(desk, request)})

    with serving(("orders/", Orders.as_view()), ("function/", place)) as client:
        ann = {"X-Name": "ann"}
        for method, number in (("POST", 1), ("PUT", 2)):
            first, again = [send(client, "/orders/", {"a": 1}, headers=ann, method=method) for _ in range(2)]
            assert (first.status_code, first.json()) == (201, {"id": number, "of": {"a": 1}})
            assert (again.status_code, again.content) == (201, first.content)
            assert (again.headers["Content-Type"], again.headers["Location"]) == ("application/json", "/1")
            assert again.headers["Idempotency-Replayed"] == "true"
        assert send(client, "/orders/", {"a": 1}).status_code == 403
        for _ in range(2):  # what is raised is rolled back, and not kept
            refused = send(client, "/orders/", {}, key="empty", headers=ann)
            assert (refused.status_code, "Idempotency-Replayed" in refused.headers) == (400, False)
        assert [send(client, "/function/").json() for _ in range(2)] == [{"id": 3}] * 2
    assert effects(desk) == (3, 3)


FORM = (
    b'--aa\r\nContent-Disposition: form-data; name="who"\r\n\r\nann\r\n--aa\r\n'
    b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n0123456789\r\n--aa--\r\n'
)


class Torn(io.BytesIO):
    """A body whose client has gone: it ends, or fails."""

    def __init__(self, data: bytes, *, fails: bool) -> None:
        super().__init__(data)
        self.fails = fails

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(size)
        if not found and self.fails:
            raise OSError("reset")
        return found


@pytest.mark.parametrize("alias", ["sqlite"], indirect=True)
@pytest.mark.parametrize("fails", [False, True])
def test_a_form_in_parts_that_breaks_off_has_no_effect_and_the_whole_one_has(desk: DjangoService, fails: bool) -> None:
    """Django's parser takes an early end for the end, and the check of CSRF tokens passes over an error."""

    @idempotent(service=desk)
    def keep(request: HttpRequest) -> HttpResponse:
        ticket(desk, request)
        return HttpResponse(request.POST.get("who", "nobody"))

    with serving(("form/", keep), middleware=("django.middleware.csrf.CsrfViewMiddleware",)):
        client = Client(enforce_csrf_checks=True, raise_request_exception=False)
        client.cookies["csrftoken"] = "a" * 32

        def sent(data: bytes) -> Any:
            headers = {"Idempotency-Key": "k", "X-CSRFToken": "a" * 32}
            body: Any = {"wsgi.input": Torn(data, fails=fails)}
            return client.generic("POST", "/form/", FORM, "multipart/form-data; boundary=aa", headers=headers, **body)

        assert sent(FORM[:40]).status_code == 400
        assert effects(desk) == (0, 0)
        whole = sent(FORM)
    assert (whole.status_code, whole.content, effects(desk)) == (200, b"ann", (1, 1))


@pytest.mark.parametrize("alias", ["sqlite"], indirect=True)
def test_another_mask_of_a_csrf_token_is_the_same_client(desk: DjangoService) -> None:
    with serving(("orders/", opening(desk))) as client:
        for token in ("one", "two"):
            assert send(client, "/orders/", {}, headers={"X-CSRFToken": token}).status_code == 201
    assert effects(desk) == (1, 1)


@pytest.mark.parametrize("alias", ["sqlite"], indirect=True)
def test_users_without_a_number_and_of_two_models_are_not_one_user(desk: DjangoService) -> None:
    class Member(User):
        class Meta:
            proxy = True
            app_label = "auth"

    users = [User(username="ann"), User(username="bob"), User(pk=1), Member(pk=1)]

    def let_in(request: HttpRequest) -> HttpResponse:
        request.user = users[int(request.headers["X-Number"])]
        return opening(desk)(request)

    with serving(("orders/", let_in)) as client:
        for _ in range(2):
            for number in range(len(users)):
                assert send(client, "/orders/", {}, headers={"X-Number": str(number)}).status_code == 201
    assert effects(desk) == (4, 4)


@pytest.mark.parametrize("alias", ["sqlite"], indirect=True)
def test_above_a_view_of_django_rest_framework_it_is_refused_since_errors_are_answers_there(
    desk: DjangoService,
) -> None:
    pytest.importorskip("rest_framework")
    from rest_framework.decorators import api_view
    from rest_framework.exceptions import ValidationError
    from rest_framework.views import APIView

    once = idempotent(service=desk)

    class Orders(APIView):
        def post(self, request: Any) -> HttpResponse:
            ticket(desk, request)
            raise ValidationError({"body": "is empty"})

    @once
    @api_view(["POST"])
    def place(request: Any) -> HttpResponse:
        ticket(desk, request)
        raise ValidationError({"body": "is empty"})

    dispatched = method_decorator(once, name="dispatch")(type("Dispatched", (Orders,), {}))
    views = [("a/", once(Orders.as_view())), ("b/", place), ("c/", dispatched.as_view())]
    with serving(*views) as client:
        for where, _ in views:
            assert send(client, f"/{where}").status_code == 500
    assert effects(desk) == (0, 0)


def test_what_is_no_plain_view_is_refused_where_it_is_declared() -> None:
    async def later(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    class Later(View):
        post = later

    for wrong in (later, Later.as_view()):
        with pytest.raises(UsageError, match="is async, where Django has no transactions: write it as a plain def"):
            idempotent(wrong)
    for no_view in (Later, "place"):
        with pytest.raises(UsageError, match="expected a view function, or a method of a class-based view"):
            idempotent(no_view)  # type: ignore[type-var]
    with pytest.raises(UsageError, match="called without a request"):
        idempotent(lambda number: None)(7)
