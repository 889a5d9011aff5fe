"""What a user writes: schedules, SQL with templates, keys. Taken as meant, or refused in one line; no key survives."""

from __future__ import annotations

import base64
import html
import json
import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from urllib.parse import quote, quote_plus
from zoneinfo import ZoneInfo

import pytest
import sqlglot
from hypothesis import assume, example, given
from hypothesis import strategies as st

from fuzzing import TEXTS, VALUES, WELL_FORMED, cheap, soon
from pipelines.config.schedules import FIELDS, Schedule, parse_cron, parse_period, read
from sources.core import redaction
from sources.core.errors import ConfigurationError, NightloadError, one_line
from sources.naming import MAX_BYTES, columns_for, identifier_for, tag_for
from sources.thinkingengine.queries import Query, literal, read_queries, ready_made, render
from sources.thinkingengine.settings import Settings

# -- cron ---------------------------------------------------------------------------------------


@st.composite
def fields(draw: st.DrawFn, low: int, high: int) -> tuple[str, set[int]]:
    """A field of a cron expression, and the numbers that it means."""
    first = draw(st.integers(low, high))
    last = draw(st.integers(first, high))
    step = draw(st.integers(1, high))
    return draw(
        st.sampled_from(
            [
                ("*", set(range(low, high + 1))),
                (f"{first}", {first}),
                (f"{first}-{last}", set(range(first, last + 1))),
                (f"*/{step}", set(range(low, high + 1, step))),
                (f"{first}-{last}/{step}", set(range(first, last + 1, step))),
                (f"{first},{last}", {first, last}),
            ]
        )
    )


INSTANTS = st.integers(0, 15 * 366 * 24 * 60).map(
    lambda minutes: datetime(2020, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
)


@st.composite
def crons(draw: st.DrawFn) -> tuple[str, list[set[int]]]:
    told = [draw(fields(low, min(high, 6) if name.endswith("week") else high)) for name, low, high in FIELDS]
    return " ".join(text for text, _ in told), [numbers for _, numbers in told]


@cheap
@given(crons(), INSTANTS)
def test_a_cron_expression_fires_in_the_minutes_that_it_names(
    cron: tuple[str, list[set[int]]], start: datetime
) -> None:
    text, (minutes, hours, days, months, weekdays) = cron
    _, _, day_field, _, weekday_field = text.split()
    either = not day_field.startswith("*") and not weekday_field.startswith("*")
    schedule = Schedule(name="s", cron=text)
    end = start + timedelta(days=3)

    def due(at: datetime) -> bool:
        in_month, in_week = at.day in days, at.isoweekday() % 7 in weekdays
        on = in_month or in_week if either else in_month and in_week
        return at.minute in minutes and at.hour in hours and at.month in months and on

    each_minute = (start + timedelta(minutes=number) for number in range(1, 3 * 24 * 60 + 1))
    assert list(schedule.fires(start, end)) == [at for at in each_minute if due(at)]


@cheap
@given(
    crons(),
    st.sampled_from(["Europe/Berlin", "Asia/Shanghai", "America/St_Johns", "Australia/Lord_Howe", "Africa/Casablanca"]),
    INSTANTS,
    st.lists(st.integers(1, 6000), max_size=4),
)
def test_fires_are_the_same_in_one_span_and_in_many(
    cron: tuple[str, list[set[int]]], zone: str, start: datetime, pieces: list[int]
) -> None:
    schedule = Schedule(name="s", cron=cron[0], zone=ZoneInfo(zone))
    begin = at = start
    found = []
    for minutes in pieces:
        found += schedule.fires(at, at + timedelta(minutes=minutes))
        at += timedelta(minutes=minutes)
    assert found == list(schedule.fires(begin, at))
    assert found == sorted(set(found))


@cheap
@given(TEXTS | st.text("0123456789*/-, @dailymonsufri", max_size=30))
def test_any_text_is_a_cron_expression_or_refused(text: str) -> None:
    try:
        cron = parse_cron(text)
    except ValueError:
        return
    assert cron.minutes and cron.hours and cron.days and cron.months and cron.weekdays


@cheap
@given(TEXTS | st.text("0123456789dhms", max_size=40) | VALUES)
def test_any_value_is_a_period_or_refused(value: object) -> None:
    with suppress(ValueError):
        assert timedelta(0) <= parse_period(value) <= timedelta(days=366)


KEYS = st.sampled_from(["cron", "zone", "vendors", "tables", "then", "deadline", "grace", "retry_after", "crom"])
TOML = st.recursive(
    WELL_FORMED.map(json.dumps)
    | st.integers(-(2**62), 2**62).map(str)
    | st.sampled_from(["true", "2026-01-01", "nan"]),
    lambda inner: st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
    max_leaves=4,
)


@cheap
@given(st.dictionaries(KEYS, TOML, max_size=4), st.sampled_from(["nightly", '"a.b"', '""', '"' + "n" * 60 + '"']),
       st.text(max_size=20) | st.just(""))  # fmt: skip
@example({}, "nightly", "a = " + "[" * 2000)
def test_any_file_of_schedules_is_read_or_refused(settings: dict[str, str], name: str, more: str) -> None:
    text = f"[schedules.{name}]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()) + more
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / ".dlt" / "config.toml"
        file.parent.mkdir()
        file.write_text(text, encoding="utf-8", errors="replace")
        try:
            found = read(Path(folder))
        except ConfigurationError as error:
            assert str(error).isprintable()
            return
    assert [each.name for each in found] == ["nightly"] * len(found)


# -- SQL with templates -------------------------------------------------------------------------

PRINTABLE = WELL_FORMED.map(lambda text: "".join(char if char.isprintable() else "_" for char in text))
NAMED = PRINTABLE.map(lambda text: text or "x")


@cheap
@given(PRINTABLE)
@example("'; DROP TABLE x; --")
@example("{start}")
@example("\\'")
def test_a_value_in_sql_is_one_literal(text: str) -> None:
    tokens = sqlglot.tokenize(f"SELECT {literal(text)} AS x", read="trino")
    assert [token.token_type.name for token in tokens] == ["SELECT", "STRING", "ALIAS", "VAR"]
    assert tokens[1].text == text


@cheap
@given(st.lists(NAMED, min_size=1, max_size=3), st.lists(NAMED, max_size=3))
@example(["a'b", "{end}", "x', 'y"], ['a"b', "{zone}", '"; DROP TABLE x; --'])
def test_names_of_events_and_columns_stay_names(events: list[str], columns: list[str]) -> None:
    settings = Settings(project_id=7, events=events, events_from="2026-01-01", event_columns=columns)
    (query,) = ready_made(settings)
    sql = render(query, zone="UTC", start=date(2026, 1, 1), end=date(2026, 1, 2))
    tokens = [(token.token_type.name, token.text) for token in sqlglot.tokenize(sql, read="trino")]
    days = ["2026-01-01", "2026-01-02"]
    assert [text for kind, text in tokens if kind == "STRING"] == [*days, *events]
    named = [text for kind, text in tokens if kind == "IDENTIFIER"]
    assert set(columns) <= set(named)
    assert not any(kind in ("SEMICOLON", "DROP") for kind, _ in tokens)


@cheap
@given(st.text("{}ab'\"start_nd", max_size=30), st.integers(1, 10**9))
def test_templates_are_put_in_once_and_other_braces_stay(sql: str, project: int) -> None:
    query = Query(name="q", sql=sql, project_id=project)
    try:
        text = render(query, zone="{start}", start=date(2026, 1, 1), end=date(2026, 1, 2), since="2026-01-01 00:00:00")
    except KeyError:
        return  # a template that there is not, which is refused when the settings are read
    assert text.count("'2026-01-01'") == _used(sql, "start")
    assert text.count("'2026-01-02'") == _used(sql, "end")


def _used(sql: str, name: str) -> int:
    return sum(1 for part in sql.replace("{{", "\0").replace("}}", "\0").split("{")[1:] if part.startswith(f"{name}}}"))


SETTINGS = st.dictionaries(
    st.sampled_from(["name", "sql", "key", "cursor", "window", "lookback", "types", "sync", "project_id"]),
    st.sampled_from(
        ["q", "SELECT 1", "SELECT {start} {end}", "SELECT '{start}'", {"start": "2026-01-01"}, {"start": "x"}, ["a"],
         {"a": "text"}, "DROP TABLE x", "SELECT 1; SELECT 2", 3, True, "SELECT {since}", "(" * 3000]
    ) | VALUES,
    max_size=6,
)  # fmt: skip


@cheap
@given(SETTINGS)
@example({"name": "q", "project_id": 3, "sql": "SELECT " + "(" * 3000 + ")" * 3000})
def test_any_settings_are_a_query_that_reads_or_refused(told: dict[str, object]) -> None:
    try:
        queries = read_queries(Settings(project_id=7, queries=[told]))
    except ConfigurationError as error:
        assert str(error).isprintable()
        return
    for query in queries:
        render(query, zone="UTC", start=date(2026, 1, 1), end=date(2026, 1, 1))


# -- names --------------------------------------------------------------------------------------


def test_a_label_that_is_another_ones_tagged_name_does_not_take_its_column() -> None:
    """Whoever edits labels at the vendor can write any of them."""
    tagged = f"a_{tag_for('A')}"
    again = f"a_{tag_for('A')}_{tag_for('A')}"
    for labels in (["a", "A", tagged], ["a", "A", tagged, again], [tagged.upper(), "A", "a", tagged]):
        columns = columns_for(labels)
        assert len(set(columns.values())) == len(labels)
        assert all(len(name.encode()) <= MAX_BYTES for name in columns.values())
        assert columns_for(reversed(labels)) == {label: columns[label] for label in reversed(labels)}


def test_long_labels_are_named_soon() -> None:
    with soon():
        for label in ("aA" * 10**5, "_" * 10**6, "A" * 10**5 + "a" * 10**5, "\u0301" * 10**5):
            assert 0 < len(identifier_for(label).encode()) <= MAX_BYTES


# -- secrets ------------------------------------------------------------------------------------

SECRETS = st.text(
    st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_categories=("C", "Z")), min_size=8, max_size=40
)


@contextmanager
def registered(secret: str) -> Iterator[None]:
    redaction.clear()
    redaction.register_secret(secret)
    try:
        yield
    finally:
        redaction.clear()


def small(quoted: str) -> str:
    """Its percent signs with small letters, as some write them."""
    return re.sub("%..", lambda found: found[0].lower(), quoted)


SPELLINGS = {
    "as it is": lambda secret: secret,
    "quoted": lambda secret: quote(secret),
    "quoted whole": lambda secret: quote(secret, safe=""),
    "quoted plus": quote_plus,
    "quoted small": lambda secret: small(quote(secret, safe="")),
    "quoted by a browser": lambda secret: quote(secret, safe="!$&'()*+,;=:@/?"),
    "quoted twice": lambda secret: quote(quote(secret, safe=""), safe=""),
    "JSON": lambda secret: json.dumps(secret)[1:-1],
    "JSON as Unicode": lambda secret: json.dumps(secret, ensure_ascii=False)[1:-1],
    "JSON in JSON": lambda secret: json.dumps(json.dumps(secret))[1:-1],
    "JSON of PHP": lambda secret: json.dumps(secret)[1:-1].replace("/", "\\/"),
    "repr": lambda secret: repr(secret)[1:-1],
    "HTML": lambda secret: html.escape(secret),
    "SQL": lambda secret: secret.replace("'", "''"),
    "base64": lambda secret: base64.b64encode(secret.encode()).decode(),
    "base64 for URLs": lambda secret: base64.urlsafe_b64encode(secret.encode()).decode(),
    "Basic": lambda secret: base64.b64encode(f"user:{secret}".encode()).decode(),
    "Basic of a longer user": lambda secret: base64.b64encode(f"users:{secret}".encode()).decode(),
    "Basic of a key": lambda secret: base64.b64encode(f"{secret}:".encode()).decode(),
    "hexadecimal": lambda secret: secret.encode().hex(),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@cheap
@given(SECRETS, WELL_FORMED, WELL_FORMED)
@example("CANARY+odd/key==&%", "", "")
@example("""it's "quoted" \\ & <b>""".replace(" ", "_"), "{", "}")
def test_no_spelling_of_a_secret_survives(spelling: str, secret: str, before: str, after: str) -> None:
    told = SPELLINGS[spelling](secret)
    with registered(secret):
        masked = redaction.redact(f"{before} {told} {after}")
        assert redaction.MASK in masked
        assert told not in masked
        assert secret not in masked
        # nor its middle, in base64 that begins elsewhere
        assert told[4:-4] not in masked or len(told) < 16
        assert redaction.redact(masked) == masked


@cheap
@given(WELL_FORMED, WELL_FORMED, SECRETS)
def test_what_is_no_secret_is_kept(before: str, after: str, secret: str) -> None:
    text = f"{before} the table has 12 rows {after}"
    assume("@" not in text and "//" not in text and secret not in text)
    with registered(secret):
        assert "the table has 12 rows" in redaction.redact(text)


def test_texts_that_are_evil_are_redacted_soon() -> None:
    size = 10**5
    for text in (
        "//" * size,
        "//" + "a" * size,
        "authorization" * (size // 10),
        "authorization:" + " " * size,
        "authorization\":'" * (size // 10),
        "token" + " " * size,
        'token="' * (size // 10),
        "token='" * (size // 10),
        "password:" * (size // 10),
        'secret":"' * (size // 10),
        "\\" * size,
        "%" * size,
    ):
        with registered("CANARY+odd/key==&%"), soon():
            redaction.redact(text)
            one_line(text)


@cheap
@given(SECRETS, WELL_FORMED)
def test_a_record_and_an_error_hold_no_secret(secret: str, text: str) -> None:
    with registered(secret):
        error = NightloadError(what=f"{text} {secret}", where=secret, why=quote(secret, safe=""), todo=text)
        record = logging.makeLogRecord({"msg": "%s", "args": (f"{text}{secret}",)})
        redaction.RedactingFilter().filter(record)
        for told in (str(error), repr(error), record.getMessage()):
            assert secret not in told
