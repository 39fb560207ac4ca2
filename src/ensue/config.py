"""Settings. The only place that reads the environment.

`ENSUE_<SERVICE>_DATABASE` and `ENSUE_BROKER` are URLs whose scheme chooses the adapter, or `..._FILE` names a file that
has one; without them everything is embedded: SQLite files in `ENSUE_HOME` (`./.ensue`).
"""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Mapping
from math import inf
from pathlib import Path

from ensue.addresses import scheme_of, usual
from ensue.codec import PARTITIONS_MAX, RECORD_BYTES_MAX
from ensue.errors import UsageError
from ensue.retry import Retry
from ensue.signatures import Trust, read_keys
from ensue.texts import logger
from ensue.variables import Source, lines_of, secret_of

log = logger("ensue.config")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """How the loops run. Times in seconds (`_s`); every bound is checked when the value is made."""

    batch_records_max: int = 500
    """Records of each partition in one transaction, and in one append of the relay; 1 to 10,000."""
    batch_s: float = 0.1
    """A transaction takes no more records once its handlers have run for so long: slow ones hold no locks for long."""
    record_bytes_max: int = RECORD_BYTES_MAX
    """Largest event that may be published, with key and envelope. Every broker takes the default unless it is set to
    take less; to raise this, raise the broker's limit first."""
    poll_interval_s: float = 1.0
    """How long a loop waits without being woken; a lost wake-up costs no more than this."""
    tick_first_s: float = 1.0
    """A source that has gone quiet appends its last position after this."""
    tick_max_s: float = 60.0
    """And then ever less often, but at least this often."""
    resend_interval_s: float = 2.0
    """A subscriber with a gap asks again after this, then ever more seldom, up to `tick_max_s`."""
    lease_ttl_s: float = 3.0
    """After this long without a heartbeat a worker's partitions go to others."""
    relay_save_interval_s: float = 0.5
    """How often the relay stores how far it is; it may lag, since sending again is harmless."""
    stop_limit_s: float = 10.0
    """How long a stop waits for the batch at hand, before that is rolled back for the next worker to do."""
    retention_s: float = 7 * 24 * 3600.0
    """How long outbox, log, inbox and stored HTTP responses are kept."""
    retention_interval_s: float = 60.0
    """How often what is older is deleted."""
    handler_limit_s: float | None = 60.0
    """How long one call of a handler may take, unless the service says so itself; 0 or None: any time."""
    dead_letters_max: int = 10_000
    """With more set aside in one partition than this, that partition waits for an operator."""
    waiters_max: int = 10_000
    """So many requests may wait for tokens at once in one process; more are refused, to be sent again."""
    show_values: bool = False
    """Dead letters, sagas and the log have the values that errors of SQLAlchemy and pydantic quote, and sagas those of
    failures for which they are stuck; for development."""
    retry: Retry = dataclasses.field(default_factory=Retry)
    """When a failed message is tried again, unless the service has a `Retry` of its own."""

    def __post_init__(self) -> None:
        if not 1 <= self.batch_records_max <= 10_000:
            raise UsageError(f"batch_records_max is {self.batch_records_max}, expected 1 to 10,000")
        if not 1 <= self.record_bytes_max <= 64_000_000:
            raise UsageError(f"record_bytes_max is {self.record_bytes_max}, expected 1 to 64,000,000 bytes")
        for name in (
            "batch_s", "poll_interval_s", "tick_first_s", "tick_max_s", "resend_interval_s",
            "lease_ttl_s", "relay_save_interval_s", "stop_limit_s", "retention_s", "retention_interval_s",
        ):  # fmt: skip
            if not 0 < getattr(self, name) < inf:  # what never ends cannot be stored
                raise UsageError(f"{name} is {getattr(self, name)}, expected more than 0 seconds, and a number of them")
        if self.handler_limit_s is not None and not 0 <= self.handler_limit_s < inf:
            raise UsageError(f"handler_limit_s is {self.handler_limit_s}, expected seconds; 0 or None: no limit")
        if self.tick_max_s < self.tick_first_s:
            raise UsageError(f"tick_max_s {self.tick_max_s} is below tick_first_s {self.tick_first_s}")
        for name in ("dead_letters_max", "waiters_max"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}, expected at least 1")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where a service's database and the broker are, and how the engine runs."""

    database: str = dataclasses.field(repr=False)
    """URL of the service's own database."""
    broker: str = dataclasses.field(repr=False)
    """URL of the broker, the same in all services."""
    partitions: int = 8
    """Of every topic that this service publishes or reads: the same in all services. It cannot be changed later without
    losing the order of keys, so the default leaves room to grow."""
    engine: EngineConfig = dataclasses.field(default_factory=EngineConfig)
    """How the loops run."""
    trust: Trust = dataclasses.field(default_factory=Trust)
    """Whether records must be signed, and the keys."""

    def __post_init__(self) -> None:
        if not 1 <= self.partitions <= PARTITIONS_MAX:
            raise UsageError(f"partitions is {self.partitions}, expected 1 to {PARTITIONS_MAX} (ENSUE_PARTITIONS)")


def database_variable(service: str) -> str:
    """Where the environment has the URL of a service's database.

    >>> database_variable("order-history")
    'ENSUE_ORDER_HISTORY_DATABASE'
    """
    return f"ENSUE_{service.upper().replace('-', '_')}_DATABASE"


def load_settings(
    service: str,
    *,
    database: str | None = None,
    broker: str | None = None,
    partitions: int | None = None,
    engine: EngineConfig | None = None,
    trust: Trust | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Arguments first, then the environment, then the embedded default. Warns of variables that no setting reads."""
    return explain_settings(
        service, database=database, broker=broker, partitions=partitions, engine=engine, trust=trust,
        environment=environment,
    )[0]  # fmt: skip


def explain_settings(
    service: str,
    *,
    database: str | None = None,
    broker: str | None = None,
    partitions: int | None = None,
    engine: EngineConfig | None = None,
    trust: Trust | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[Settings, Mapping[str, Source]]:
    """As `load_settings`, and where each came from.

    The sources go by the names of the fields, `database` or `engine.batch_s`, in the order of the classes; the first is
    `home`, the directory of what is embedded.
    """
    env = os.environ if environment is None else environment
    _warn_of_unknown(env, service)
    home = home_of(env)
    sources = {"home": _source(env, "ENSUE_HOME")}

    def url(what: str, given: object, variable: str, file: str) -> str:
        found = None if given else secret_of(env, variable)
        text, source = found or (f"sqlite:///{home}/{file}", Source("default", variable))
        sources[what] = source = Source("argument", variable) if given else source
        return _url(what, given or text, source)

    settings = Settings(
        database=url("database", database, database_variable(service), f"{service}.db"),
        broker=url("broker", broker, "ENSUE_BROKER", "broker.db"),
        partitions=partitions or _whole(env, "ENSUE_PARTITIONS", 8),
        engine=engine or _engine(env),
        trust=trust or _trust(env),
    )
    sources["partitions"] = _source(env, "ENSUE_PARTITIONS", given=bool(partitions))
    for field in dataclasses.fields(EngineConfig):
        variable = "" if field.name == "retry" else f"ENSUE_{field.name.upper()}"
        sources[f"engine.{field.name}"] = _source(env, variable, given=engine is not None, empty=True)
    for name, variable in _TRUST.items():
        sources[f"trust.{name}"] = _source(env, variable, given=trust is not None)
    if trust is None and (path := env.get("ENSUE_KEYS_FILE", "")):
        both = "ENSUE_KEYS and ENSUE_KEYS_FILE" if env.get("ENSUE_KEYS") else "ENSUE_KEYS_FILE"
        sources["trust.keys"] = Source("file", both, path)
    return settings, sources


def home_of(environment: Mapping[str, str] | None = None) -> Path:
    """Where embedded databases and the embedded log are."""
    env = os.environ if environment is None else environment
    return Path(env.get("ENSUE_HOME", ".ensue")).absolute()


def _source(env: Mapping[str, str], variable: str, *, given: bool = False, empty: bool = False) -> Source:
    """empty: whether the variable is read when it is set to nothing."""
    if given:
        return Source("argument", variable)
    said = env.get(variable) is not None if empty else bool(env.get(variable))
    return Source("environment" if said else "default", variable)


#: Fields of Trust, and what the environment calls them.
_TRUST = {
    "signed": "ENSUE_TRUST",
    "keys": "ENSUE_KEYS",
    "unsigned_topics": "ENSUE_UNSIGNED_TOPICS",
    "unsigned_sources": "ENSUE_UNSIGNED_SOURCES",
}


def read_from() -> tuple[object, ...]:
    """What `load_settings` would read, but for files: as long as this is equal, so are the settings. Much cheaper."""
    return (os.getcwd(), *(item for item in os.environ.items() if item[0].startswith("ENSUE_")))


#: How lines of the log may be written.
LOG_FORMATS = ("text", "json")


def log_format(environment: Mapping[str, str] | None = None) -> str:
    """How log lines are written, `text` unless told. Raises UsageError for what is none of LOG_FORMATS."""
    found = (os.environ if environment is None else environment).get("ENSUE_LOG_FORMAT") or LOG_FORMATS[0]
    if found not in LOG_FORMATS:
        raise UsageError(f"ENSUE_LOG_FORMAT is {found!r}, expected {' or '.join(LOG_FORMATS)}")
    return found


def _trust(env: Mapping[str, str]) -> Trust:
    asked = env.get("ENSUE_TRUST", "")
    if asked not in ("", "any", "signed"):
        raise UsageError(f"ENSUE_TRUST is {asked!r}, expected any or signed")
    keys = read_keys(env.get("ENSUE_KEYS", "").split(), "ENSUE_KEYS")
    if path := env.get("ENSUE_KEYS_FILE", ""):
        keys += read_keys(lines_of("ENSUE_KEYS_FILE", path), f"ENSUE_KEYS_FILE {path}")
    return Trust(
        signed=asked == "signed",
        keys=keys,
        unsigned_topics=_names(env, "ENSUE_UNSIGNED_TOPICS"),
        unsigned_sources=_names(env, "ENSUE_UNSIGNED_SOURCES"),
    )


def _names(env: Mapping[str, str], variable: str) -> frozenset[str]:
    return frozenset(each.strip() for each in env.get(variable, "").split(",") if each.strip())


def _url(what: str, given: object, source: Source) -> str:
    if not isinstance(given, str):
        kind = type(given).__name__
        if hasattr(given, "get_secret_value"):  # pydantic's SecretStr
            write = f"of a {kind} that is {what}.get_secret_value()"
        elif hasattr(given, "unicode_string"):  # pydantic's URLs
            write = f"of a {kind} that is str({what})"
        else:
            write = "of an SQLAlchemy URL that is url.render_as_string(hide_password=False)"
        raise UsageError(f"{what} is a {kind}, expected the URL as a str; {write}")
    if not scheme_of(given):
        where = f"{what}=" if source.kind == "argument" else source.variable
        raise UsageError(
            f"{where} {f'is {source.file}, whose text ' if source.file else ''}is no URL, expected one with a scheme, "
            "e.g. postgresql://user:password@host/name; what is there is not shown, since it may be a secret"
        )
    return usual(given)


_KNOWN = frozenset(
    {"ENSUE_HOME", "ENSUE_BROKER", "ENSUE_BROKER_FILE", "ENSUE_PARTITIONS", "ENSUE_KEYS_FILE", *_TRUST.values()}
    | {f"ENSUE_{field.name.upper()}" for field in dataclasses.fields(EngineConfig) if field.name != "retry"}
    | {"ENSUE_LOG_FORMAT"}
)
#: A service's database (perhaps another service's), and what tests of adapters are told.
_NOT_OURS = re.compile(r"ENSUE_(.+_DATABASE(_FILE)?|TEST_.*|REQUIRE_.*)", re.DOTALL)
_warned: set[str] = set()


def _warn_of_unknown(env: Mapping[str, str], service: str) -> None:
    """Log each variable that looks like a setting and is none, once in a process: a slip of the pen does nothing."""
    database = database_variable(service)
    own = [database, f"{database}_FILE"]
    for name in sorted(env):
        if not name.startswith("ENSUE_") or name in _KNOWN or name in _warned or _NOT_OURS.fullmatch(name):
            continue
        _warned.add(name)
        # Names of services are alike in all but themselves, so closer: it may be another service's.
        close = difflib.get_close_matches(name, own, 1, 0.93) or difflib.get_close_matches(name, sorted(_KNOWN), 1, 0.8)
        log.warning("%s is no setting, and is ignored%s", name, f": perhaps {close[0]}?" if close else "")


def _engine(env: Mapping[str, str]) -> EngineConfig:
    """Each number of EngineConfig may be given as ENSUE_<NAME>, e.g. ENSUE_LEASE_TTL_S=5."""
    changes: dict[str, float | int] = {}
    for field in dataclasses.fields(EngineConfig):
        text = env.get(f"ENSUE_{field.name.upper()}")
        if text is None or field.name == "retry":
            continue
        try:
            if field.type == "bool":
                changes[field.name] = {"0": False, "false": False, "1": True, "true": True}[text.lower()]
            else:
                changes[field.name] = int(text) if field.type in ("int", int) else float(text)
        except (ValueError, KeyError):
            expected = "0 or 1" if field.type == "bool" else "a number"
            raise UsageError(f"ENSUE_{field.name.upper()} is {text!r}, expected {expected}") from None
    return EngineConfig(**changes)  # type: ignore[arg-type]  # names and kinds come from the class itself


def _whole(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"{name} is {text!r}, expected a whole number")
    return int(text)
