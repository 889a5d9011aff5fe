"""`nightload sql` reads and does nothing else, whatever a statement says and however the server reads it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from contextlib import suppress

import pytest

from conftest import NIGHTLOAD, Night
from pipelines.warehouse.sql_text import calls, setting
from postgres_server import execute
from test_sql import Warehouse, there, urls

__all__ = ["there", "urls"]


def rows(there: Warehouse) -> list[tuple[object, ...]]:
    return there.rows("SELECT * FROM tune.cities ORDER BY id")


on_postgres = pytest.mark.parametrize("there", ["postgres"], indirect=True)
SETS = "SET standard_conforming_strings = off;\nSET backslash_quote = on;\nSET escape_string_warning = off;\n"
TRICKS = (
    r"SELECT '\'; COMMIT; DELETE FROM tune.cities; COMMIT; --'",
    r"SELECT E'\\'; COMMIT; DELETE FROM tune.cities; COMMIT; --'",
    r"SELECT 'a\''; COMMIT; SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE; "
    r"BEGIN READ WRITE; DELETE FROM tune.cities; COMMIT; --'",
    r"""SELECT U&'\'; COMMIT; DELETE FROM tune.cities; COMMIT; --'""",
    "SELECT 1 /* /* */ */ ; COMMIT; DELETE FROM tune.cities",
    "SELECT $a$ $a$ ; COMMIT; DELETE FROM tune.cities; COMMIT",
)


@pytest.mark.parametrize("trick", TRICKS)
def test_statement_hidden_from_the_splitter_deletes_nothing(there: Warehouse, trick: str) -> None:
    was = rows(there)
    # as a shell: it goes on after a refusal
    there.night("sql", input=f"{SETS}{trick};\n")
    assert rows(there) == was


@pytest.mark.parametrize(
    "statement",
    [
        "SET standard_conforming_strings = off",
        "SET SESSION backslash_quote TO on",
        "SET client_encoding TO 'LATIN1'",
        "SET default_transaction_read_only = off",
        "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
        "SET TRANSACTION READ WRITE",
        "SET ROLE postgres",
        "SET search_path = 'a\\', b'",
        "SET secret_directory = '/tmp'",
        "RESET ALL",
        "SELECT set_config('standard_conforming_strings', 'off', false)",
        "BEGIN",
        "COMMIT",
        "PREPARE a AS SELECT 1",
        "CREATE TEMP TABLE a AS SELECT 1",
        "COPY (SELECT 1) TO PROGRAM 'true'",
        "COPY tune.cities FROM PROGRAM 'true'",
    ],
)
def test_statement_that_sets_or_begins_something_is_refused(there: Warehouse, statement: str) -> None:
    ran = there.night.main("sql", statement)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1), ran


@pytest.mark.parametrize(
    "call",
    [
        "pg_terminate_backend(0)",
        "PG_Terminate_Backend (0)",
        '"pg_terminate_backend"(0)',
        "pg_catalog.pg_terminate_backend/* */(0)",
        "pg_cancel_backend(0)",
        "lo_create(0)",
        "lo_from_bytea(0, 'x')",
        "lo_unlink(1)",
        "lo_import('/etc/hostname')",
        "pg_advisory_lock(1)",
        "pg_try_advisory_xact_lock_shared(1)",
        "pg_reload_conf()",
        "pg_rotate_logfile()",
        "pg_read_file('/etc/hostname')",
        "pg_ls_dir('/')",
        "pg_stat_file('/')",
        "pg_notify('a', 'b')",
        "pg_switch_wal()",
        "pg_logical_emit_message(false, 'a', 'b')",
        "pg_stat_reset()",
        "query_to_xml('SELECT pg_reload' || '_conf()', true, true, '')",
        "ts_stat('SELECT pg_reload' || '_conf()')",
        "nextval('a')",
        'U&"pg\\005fterminate\\005fbackend"(0)',
    ],
)
@on_postgres
def test_function_that_acts_is_refused_on_postgres(there: Warehouse, call: str) -> None:
    for sql in (f"SELECT {call}", f"EXPLAIN ANALYZE SELECT {call}", f"WITH a AS (SELECT {call}) TABLE a"):
        ran = there.night.main("sql", sql)
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1), ran
        assert "it does not only read" in ran.err


@on_postgres
def test_function_of_an_extension_that_reaches_out_is_refused(there: Warehouse) -> None:
    assert there.url is not None
    available = execute(there.url, "SELECT name FROM pg_available_extensions WHERE name IN ('dblink', 'tablefunc')")
    for (name,) in available:
        execute(there.url, f"CREATE EXTENSION IF NOT EXISTS {name}")
    for name, sql in {
        "dblink": "SELECT * FROM dblink('dbname=x', 'DELETE FROM t') AS t(a int)",
        "tablefunc": "SELECT * FROM crosstab('SELECT pg_reload_conf()') AS t(a int)",
    }.items():
        ran = there.night.main("sql", sql)
        assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1), (name, ran)


@pytest.mark.parametrize(
    "statement",
    [
        "CALL enable_logging(storage = 'file', storage_path = '/tmp/nowhere')",
        "CALL enable_logging()",
        "FROM enable_logging()",
        "SELECT * FROM enable_logging('QueryLog')",
        "FROM query('FROM enable_' || 'logging()')",
        "SELECT write_log('x')",
        "CALL enable_profiling()",
        "PRAGMA enable_profiling",
        "CHECKPOINT",
        "FROM force_checkpoint()",
        "INSTALL httpfs",
        "LOAD httpfs",
        "DETACH warehouse",
        "PRAGMA import_database('/tmp')",
        "FROM read_duckdb('/tmp/other.duckdb')",
        "VACUUM",
    ],
)
def test_statement_that_acts_is_refused_on_duckdb(there: Warehouse, statement: str) -> None:
    ran = there.night("sql", statement)
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1), ran


def test_what_only_reads_is_answered(there: Warehouse) -> None:
    for sql in (
        "EXPLAIN SELECT 1",
        "SET search_path = tune; SELECT name FROM cities",
        "SET TIME ZONE 'Asia/Shanghai'; RESET timezone; SELECT random() < 2 AS name",
        "SET search_path TO 'tune'; -- a comment (pg_reload_conf)\nSELECT count(*) AS name FROM cities -- ;",
        "SELECT 'pg_reload_conf' AS name, 'a\\' AS b",
    ):
        ran = there.night.main("sql", sql, "--csv")
        assert ran.code == 0 and ran.out, (sql, ran)
    own = {
        "duckdb": ("PRAGMA table_info('tune.cities')", "DESCRIBE tune.cities", "USE tune", "SUMMARIZE tune.cities"),
        "postgres": ("SHOW server_version", "SELECT pg_sleep(0)", "SELECT pg_total_relation_size('tune.cities')"),
    }
    for sql in own[there.database]:
        assert there.night.main("sql", sql).code == 0, sql


def test_setting_is_read_only_from_plain_values() -> None:
    assert setting("SET search_path TO tune, 'public'") == ("search_path", "tune, public")
    assert setting("set session Work_Mem = '64MB'") == ("work_mem", "64MB")
    assert setting("RESET search_path") == setting("SET search_path TO DEFAULT") == ("search_path", None)
    assert setting("SET search_path = a; DELETE FROM b") is None
    assert setting("SET LOCAL work_mem = 1") is None


def test_calls_are_names_before_a_bracket_or_a_comment() -> None:
    assert calls('SELECT a, Lo_Put (1), "Xy"(2), b/**/(3) FROM c') >= {"Lo_Put", "lo_put", "Xy", "b"}
    assert not {"a", "c"} & calls("SELECT a FROM c WHERE d = 1")


NASTY = "a\x1b]0;owned\x07b\x9b31m\u202ec\u2066\x7f\u200e"


def on_a_terminal(night: Night, *args: str) -> str:
    main, other = pty.openpty()
    environment = {**night.environment(), "TERM": "dumb", "NO_COLOR": "1"}
    with subprocess.Popen([str(NIGHTLOAD), *args], stdout=other, env=environment, cwd=night.home):
        os.close(other)
        seen = b""
        with suppress(OSError):  # the other end was closed
            while chunk := os.read(main, 4096):
                seen += chunk
    os.close(main)
    return seen.decode()


@pytest.mark.parametrize("form", ["--csv", "--json"])
def test_escapes_in_data_are_written_out_on_a_terminal_and_exact_in_a_pipe(there: Warehouse, form: str) -> None:
    sql = "SELECT " + " || ".join(f"chr({ord(sign)})" for sign in NASTY) + " AS v"
    seen = on_a_terminal(there.night, "sql", sql, form)
    assert all(sign.isprintable() or sign in "\r\n" for sign in seen), seen
    assert r"\u001b]0;owned\u0007b\u009b31m\u202ec\u2066\u007f\u200e" in seen
    piped = there.night("sql", sql, form).out
    if form == "--json":
        assert json.loads(seen) == json.loads(piped) == [{"v": NASTY}]
    else:
        assert piped == f"v\n{NASTY}\n"
