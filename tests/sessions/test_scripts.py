"""Whatever is done with a session, in whatever order: events and rows are those of a model, on SQLite."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy.orm import Session
from tests.sessions.desk import Ticket, desk_at, engine_at, published, texts, tickets
from tests.sessions.scripts import TAKEN, Script

SEEDS = 60


def test_random_scripts_leave_what_the_model_says(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/desk.db"
    desk, engine = desk_at(f"{url}?synchronous=OFF"), engine_at(url)
    with Session(engine) as session:
        session.add(Ticket(id=TAKEN))
        session.commit()
    events: dict[int, list[str]] = {}
    said: dict[int, list[str]] = {}
    rows = [TAKEN]
    for seed in range(SEEDS):
        script = Script(seed, first=1 + seed * 1000)
        with Session(engine) as session:
            script.run(desk, session)
        rows += script.rows
        events[seed], said[seed] = [str(each) for each in script.events], script.said
        assert tickets(engine) == sorted(rows), (seed, script.said)
    found = texts(published(desk))
    for seed, wanted in events.items():
        assert [each for each in found if int(each) // 1000 == seed] == wanted, (seed, said[seed])
    assert sum(map(len, events.values())) == len(found) > SEEDS
    engine.dispose()
