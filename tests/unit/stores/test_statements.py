"""What statements do besides their work, told from their text."""

from __future__ import annotations

import pytest

from ensue.errors import UsageError
from ensue.stores.mariadb.words import WORDS as MARIADB
from ensue.stores.postgres.words import WORDS as POSTGRES
from ensue.stores.sqlite.words import WORDS as SQLITE
from ensue.stores.statements import Left, Watch, Words

EVERYWHERE = [
    "COMMIT", "commit;", "  /* why */ -- and how\n Commit", "ROLLBACK", "ROLLBACK AND CHAIN", "BEGIN",
    "COMMIT AND CHAIN", "SELECT 1; COMMIT", "SELECT 'it''s; so'; rollback",
]  # fmt: skip
HARMLESS = [
    "SELECT 1", "SELECT 'a; COMMIT'", "INSERT INTO t VALUES ('x', '; rollback')", "SELECT 1 -- ; COMMIT",
    "SELECT /* ; COMMIT */ 1", 'SELECT "commit" FROM t; ', "SAVEPOINT a", "ROLLBACK TO SAVEPOINT a", "rollback to a",
    "RELEASE SAVEPOINT a", "SELECT ending FROM begins", "UPDATE commits SET rollback = 1",
]  # fmt: skip


@pytest.mark.parametrize("words", [POSTGRES, MARIADB, SQLITE], ids=["postgres", "mariadb", "sqlite"])
@pytest.mark.parametrize("text", EVERYWHERE)
def test_what_ends_a_transaction_everywhere(words: Words, text: str) -> None:
    assert words.effect(text).ends


@pytest.mark.parametrize("words", [POSTGRES, MARIADB, SQLITE], ids=["postgres", "mariadb", "sqlite"])
@pytest.mark.parametrize("text", HARMLESS)
def test_what_does_not(words: Words, text: str) -> None:
    effect = words.effect(text)
    assert (effect.ends, effect.left) == ("", Left.NOTHING)


@pytest.mark.parametrize(
    ("words", "text", "ends"),
    [
        (POSTGRES, "END", "END"),
        (POSTGRES, "abort work", "ABORT"),
        (POSTGRES, "prepare  transaction 'x'", "PREPARE TRANSACTION"),
        (POSTGRES, "SET TRANSACTION READ ONLY", "SET TRANSACTION"),
        (POSTGRES, "DO $$ BEGIN PERFORM 1; END $$", ""),
        (POSTGRES, "CREATE FUNCTION one() RETURNS int BEGIN ATOMIC SELECT 1; END", ""),
        (POSTGRES, "SELECT $x$; COMMIT; $x$", ""),
        (POSTGRES, r"SELECT 'a\'; COMMIT; SELECT '", "COMMIT"),  # a backslash is no escape
        (POSTGRES, r"SELECT E'it\'s; COMMIT'", ""),
        (POSTGRES, "TRUNCATE t", ""),
        (MARIADB, "TRUNCATE t", "TRUNCATE"),
        (MARIADB, "/*!50000 DROP */ TABLE t", "DROP"),
        (MARIADB, "create or replace table t (a int)", "CREATE"),
        (MARIADB, "CREATE OR REPLACE TEMPORARY TABLE t (a int)", ""),
        (MARIADB, "DROP TEMPORARY TABLE t", ""),
        (MARIADB, r"SELECT 'a\'; COMMIT; SELECT '", ""),
        (MARIADB, "SELECT 1 # ; COMMIT", ""),
        (MARIADB, "ANALYZE FORMAT=JSON SELECT 1", ""),
        (MARIADB, "SET SESSION sql_mode = '', @@autocommit = 1", "SET SESSION SQL_MODE = , @@AUTOCOMMIT"),
        (SQLITE, "CREATE TRIGGER x AFTER INSERT ON t BEGIN UPDATE t SET a = 1; END", ""),
        (SQLITE, "PRAGMA foreign_keys", ""),
        (SQLITE, "PRAGMA main.table_info(t)", ""),
        (SQLITE, "pragma main . synchronous=0", "PRAGMA MAIN . SYNCHRONOUS"),
    ],
)
def test_what_ends_a_transaction_here_or_there(words: Words, text: str, ends: str) -> None:
    assert words.effect(text).ends == ends


@pytest.mark.parametrize(
    ("words", "text", "left"),
    [
        (POSTGRES, "SET LOCAL search_path TO x", Left.IN_STEP),
        (POSTGRES, "SELECT set_config('a', 'b', true)", Left.IN_STEP),
        (POSTGRES, "SELECT set_config('a', 'b', false)", Left.ON_CONNECTION),
        (POSTGRES, "SELECT set_config('a', $1, $2)", Left.ON_CONNECTION),  # nobody knows
        (POSTGRES, "SELECT pg_advisory_xact_lock(1)", Left.NOTHING),
        (POSTGRES, "SELECT pg_advisory_lock(1)", Left.ON_CONNECTION),
        (POSTGRES, "SELECT 1 INTO TEMP t", Left.ON_CONNECTION),
        (POSTGRES, "DECLARE c CURSOR WITH HOLD FOR SELECT 1", Left.ON_CONNECTION),
        (POSTGRES, "DECLARE c CURSOR FOR SELECT 1", Left.NOTHING),
        (MARIADB, "SELECT @@version", Left.NOTHING),
        (MARIADB, "SELECT @row := 1", Left.ON_CONNECTION),
        (MARIADB, "SET STATEMENT max_statement_time = 1 FOR SELECT 1", Left.NOTHING),
        (MARIADB, "USE other", Left.ON_CONNECTION),
        (SQLITE, "CREATE TEMP TABLE t (a)", Left.IN_STEP),
    ],
)
def test_what_is_left_behind(words: Words, text: str, left: Left) -> None:
    assert words.effect(text).left is left


def test_the_names_of_what_is_set_and_made() -> None:
    effect = MARIADB.effect("SET @@session.time_zone = '+00:00', LOCAL sql_safe_updates=1, @mine := 2, GLOBAL x = 3")
    assert effect.assigned == ("time_zone", "sql_safe_updates")
    assert MARIADB.effect("CREATE TEMPORARY TABLE IF NOT EXISTS `a b`(x int)").made == ("`a b`",)
    assert MARIADB.effect("CREATE TEMPORARY TABLE scratch (x int)").made == ("scratch",)


def test_a_text_that_is_long_is_looked_at_as_well() -> None:
    long = "x" * 20_000
    assert POSTGRES.effect(f"SELECT '{long}'; COMMIT").ends == "COMMIT"
    assert MARIADB.effect(f"TRUNCATE {long}").ends == "TRUNCATE"
    assert MARIADB.effect(f"INSERT INTO t VALUES ('{long}')").ends == ""


def test_what_was_published_goes_with_its_savepoint() -> None:
    watch = Watch(POSTGRES)
    published: list[str] = []
    watch.published = published

    def say(text: str) -> None:
        watch.after(watch.before(text))

    published.append("before")
    say("SAVEPOINT a")
    published.append("in a")
    say("SAVEPOINT b")
    published.append("in b")
    say("ROLLBACK TO b")
    assert published == ["before", "in a"]
    published.append("in b again")
    say('rollback to "B"')
    say("ROLLBACK TO SAVEPOINT a")
    assert published == ["before"]
    with pytest.raises(UsageError, match="ROLLBACK TO b: this message has set no such savepoint"):
        watch.before("ROLLBACK TO b")
    watch.forget_savepoints()
    with pytest.raises(UsageError, match="no such savepoint"):
        watch.before("ROLLBACK TO a")
    with pytest.raises(UsageError, match="COMMIT in the session"):
        watch.before("COMMIT")
