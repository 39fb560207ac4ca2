"""The example's own tests, and its admin: what a worker sets aside is tried again, or given up, with a reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.django.processes import Shop

#: One process that is the worker, the other service, and whoever sits before the admin.
ADMIN = """
import asyncio, logging
from django.contrib.auth.models import User
from django.test import Client
from django_orders.contracts import CreditReserved
from django_orders.customers import customers
from django_orders.orders.models import Order
from ensue import Retry
from ensue.integrations.django import service
from ensue.integrations.django.models import Decision, DeadLetter
logging.disable()
service().retry = Retry(attempts_max=1)

async def handled(letters, *events):
    async with customers.running() as other, service().running() as runtime, asyncio.timeout(40):
        async with customers.step() as step:
            for each in events:
                step.publish(each)
        while True:
            books = runtime.context.books
            if sum((await books.letter_totals()).values()) == letters:
                return
            await asyncio.sleep(0.02)

def states():
    return list(DeadLetter.objects.order_by("data").values_list("state", flat=True))

asyncio.run(handled(2, *(CreditReserved(order_id=each, customer_id=each) for each in (1, 2))))
assert states() == ["dead", "dead"], states()
client = Client()
client.force_login(User.objects.create_superuser("ann", password=None))
listed = client.get("/admin/ensue/deadletter/").content.decode()
assert "DoesNotExist" in listed and "web.customers.CreditReserved.v1" in listed
first, second = DeadLetter.objects.order_by("data")
shown = client.get(f"/admin/ensue/deadletter/{first.pk.replace('/', '_2F').replace(':', '_3A')}/change/")
assert "Order matching query does not exist" in shown.content.decode(), shown

def decide(action, letter, reason):
    form = {"action": action, "_selected_action": [letter.pk], "reason": reason}
    return client.post("/admin/ensue/deadletter/", form, follow=True).content.decode()

assert "say why" in decide("retry", first, "  ")
assert states() == ["dead", "dead"] and not Decision.objects.exists()
Order.objects.create(id=1, customer_id=1, total=5)
assert "1 dead letter: released" in decide("retry", first, "the order was restored")
assert "1 dead letter: discarded" in decide("discard", second, "nobody has ordered this")
assert "discarded" in decide("retry", second, "once more")  # it says what it found instead
asyncio.run(handled(1))
# The other service, which has no such customer, may have said so meanwhile.
assert Order.objects.get(id=1).changes.first().text == "credit reserved"
assert states() == ["discarded"], states()
for each in Decision.objects.order_by("decided_at"):
    print(each.actor, each.origin, each.action, each.reason, sep=" | ")
assert "nobody has ordered this" in client.get("/admin/ensue/decision/").content.decode()

reader = User.objects.create_user("bob", is_staff=True)
client.force_login(reader)
assert client.get("/admin/ensue/deadletter/").status_code == 403
from django.contrib.auth.models import Permission
reader.user_permissions.add(Permission.objects.get(codename="view_deadletter"))
assert 'value="discard"' not in client.get("/admin/ensue/deadletter/").content.decode()
decide("retry", second, "I may not")
assert Decision.objects.count() == 2
"""


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path, "orders.db")
    yield shop
    shop.stop()


def test_the_projects_own_tests_pass(shop: Shop) -> None:
    assert "OK" in shop.manage("test", "django_orders.orders")


def test_what_the_admin_decides_is_written_down(shop: Shop) -> None:
    shop.manage("migrate", "--verbosity", "0")
    assert shop.python(ADMIN).splitlines() == [
        "ann | admin | dead-letters retry | the order was restored",
        "ann | admin | dead-letters discard | nobody has ordered this",
    ]


#: One process, since each start of Django takes its time.
TABLES = """
from django.core.management import call_command
from django.db import connection

def own():
    return sum(each.startswith("ensue_") for each in connection.introspection.table_names())

call_command("migrate", "ensue", verbosity=0)
made = own()
call_command("makemigrations", check_changes=True, verbosity=0)  # exits with 1 where a model has changed
call_command("migrate", "ensue", "zero", verbosity=0)
print(made > 15, own())
"""


def test_ensues_tables_come_and_go_with_their_migration(shop: Shop) -> None:
    assert shop.python(TABLES) == "True 0"
