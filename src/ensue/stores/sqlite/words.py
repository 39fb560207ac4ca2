"""How statements begin that end a transaction in SQLite, or change the one connection on which all steps run."""

from __future__ import annotations

from ensue.stores.statements import Words

_READS = r"table_\w+|index_\w+|foreign_key_(?:list|check)|integrity_check|quick_check"

WORDS = Words(
    noise=r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`(?:[^`]|``)*`|/\*.*?\*/|--[^\n]*",
    ends=(
        r"COMMIT|END|ROLLBACK(?!\s+(?:TRANSACTION\s+)?TO\b)|BEGIN|ATTACH|DETACH|"
        rf"PRAGMA\s+(?:\w+\s*\.\s*)?(?!(?:defer_foreign_keys|{_READS})\b)\w+(?=\s*[=(])"
    ),
    in_step=r"CREATE\s+TEMP(?:ORARY)?\b|PRAGMA\s+defer_foreign_keys\b",
)
