"""How statements begin that end a transaction in MariaDB, or leave something behind.

Those that make or change tables, rights or the server commit by themselves.
"""

from __future__ import annotations

from ensue.stores.statements import Words

WORDS = Words(
    # Not those comments that the server executes: `/*!COMMIT*/`.
    noise=(
        r"'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.|\"\")*\"|`(?:[^`]|``)*`|/\*(?!M?!).*?\*/|/\*M?!\d*|\*/|--\s[^\n]*|#[^\n]*"
    ),
    # With another role, or without autocommit, the step's own statements would not be what they are meant to be.
    ends=(
        r"COMMIT|ROLLBACK(?!\s+(?:WORK\s+)?TO\b)|BEGIN|START|STOP|XA|"
        r"CREATE(?!\s+(?:OR\s+REPLACE\s+)?TEMPORARY\b)|DROP(?!\s+(?:TEMPORARY|PREPARE)\b)|ALTER|TRUNCATE|RENAME|"
        r"(?:ANALYZE|CHECK|OPTIMIZE|REPAIR)\s+(?:(?:LOCAL|NO_WRITE_TO_BINLOG)\s+)?TABLE|CACHE\s+INDEX|LOAD\s+INDEX|"
        r"LOCK\s+TABLES?|UNLOCK\s+TABLES?|FLUSH|RESET|GRANT|REVOKE|INSTALL|UNINSTALL|CHANGE|SHUTDOWN|BACKUP|"
        r"SET\s+(?:DEFAULT\s+)?(?:PASSWORD|ROLE)|SET\b[^;]*\bautocommit"
    ),
    on_connection=r"SET(?!\s+STATEMENT\b)|USE|PREPARE|DEALLOCATE|HANDLER|CREATE\s+(?:OR\s+REPLACE\s+)?TEMPORARY",
    within=r"\bGET_LOCK\s*\(|(?<!@)@\w+\s*:=|\bINTO\s+@",
)
