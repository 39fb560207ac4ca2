"""How statements begin that end a transaction in PostgreSQL, or leave something behind."""

from __future__ import annotations

from ensue.stores.statements import Words

WORDS = Words(
    noise=r"\bE'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|(\$\w*\$).*?\1|/\*.*?\*/|--[^\n]*",
    # A transaction that was made read-only cannot be made writable again, and the step has more to write.
    ends=(
        r"COMMIT|END|ABORT|ROLLBACK(?!\s+(?:(?:WORK|TRANSACTION)\s+)?TO\b)|BEGIN|START\s+TRANSACTION|"
        r"PREPARE\s+TRANSACTION|SET\s+(?:(?:LOCAL|SESSION)\s+)?TRANSACTION(?:_\w+)?"
    ),
    in_step=r"SET\s+(?:LOCAL\b|CONSTRAINTS\b)",
    on_connection=(
        r"SET|RESET|DISCARD|PREPARE|DEALLOCATE|LISTEN|UNLISTEN|LOAD|DECLARE\b.*\bWITH\s+HOLD|"
        r"CREATE\s+(?:OR\s+REPLACE\s+)?(?:(?:GLOBAL|LOCAL)\s+)?TEMP(?:ORARY)?"
    ),
    within=(
        r"\bset_config\s*\((?![^()]*\btrue\s*\))|\bpg_(?:try_)?advisory_lock(?:_shared)?\s*\(|"
        r"\bINTO\s+(?:LOCAL\s+)?TEMP(?:ORARY)?\b"
    ),
    in_step_within=r"\bset_config\s*\(",
)
