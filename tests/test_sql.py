"""`nightload sql`: reads either database, exactly, and changes neither."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest
from rich.cells import cell_len

from conftest import NIGHTLOAD, Night
from databases import DATABASES, databases, point
from pipelines.cli.formats import as_text
from pipelines.warehouse.sql_text import first_word, split
from postgres_server import PASSWORD, execute

SEED = (
    "CREATE SCHEMA tune",
    "CREATE TABLE tune.cities (id BIGINT, name VARCHAR, payout DECIMAL(38,9), note VARCHAR)",
    "INSERT INTO tune.cities VALUES (9007199254740993, '城市', 12345678901234567890.000000001, NULL), "
    "(-1, 'NULL', 0.1, '')",
    "COMMENT ON TABLE tune.cities IS 'where it was'",
    "CREATE SCHEMA nightload",
    "CREATE TABLE nightload.columns (dataset VARCHAR, table_name VARCHAR, column_name VARCHAR, label VARCHAR, "
    "is_key BOOLEAN)",
    "INSERT INTO nightload.columns VALUES ('tune', 'cities', 'id', 'ID', true)",
)
ROWS = "SELECT id, name, payout, note FROM tune.cities ORDER BY id"
MANY = {
    "duckdb": "SELECT range AS id, repeat('x', 500) AS text FROM range({})",
    "postgres": "SELECT id, repeat('x', 500) AS text FROM generate_series(0, {} - 1) AS g(id)",
}
SLOW = {
    "duckdb": "SELECT count(*) FROM range(10000000000000) AS t(a) WHERE a % 7 = 3",
    "postgres": "SELECT pg_sleep(600)",
}


@dataclass
class Warehouse:
    """A home whose warehouse holds `SEED`, loaded by nobody."""

    database: str
    night: Night
    url: str | None

    def rows(self, sql: str) -> list[tuple[object, ...]]:
        if self.url is not None:
            return execute(self.url, sql)
        return self.night.rows(sql)


@pytest.fixture(scope="module")
def urls() -> Iterator[dict[str, str | None]]:
    with databases(*DATABASES) as found:
        yield found


@pytest.fixture(params=DATABASES)
def there(request: pytest.FixtureRequest, urls: dict[str, str | None], tmp_path: Path) -> Warehouse:
    database, url = request.param, urls[request.param]
    night = point(Night(home=tmp_path), url)
    if url is not None:
        execute(url, "DROP SCHEMA IF EXISTS tune, nightload CASCADE", *SEED)
    else:
        _seed(night.warehouse)
    return Warehouse(database=database, night=night, url=url)


def _seed(file: Path) -> None:
    file.parent.mkdir(exist_ok=True)
    with duckdb.connect(str(file)) as connection:
        for statement in SEED:
            connection.execute(statement)


def test_no_digit_is_lost_and_null_is_not_the_empty_text(there: Warehouse) -> None:
    as_json = there.night("sql", ROWS, "--json")
    assert json.loads(as_json.out, parse_float=Decimal) == [
        {"id": -1, "name": "NULL", "payout": Decimal("0.100000000"), "note": ""},
        {
            "id": 9007199254740993,
            "name": "城市",
            "payout": Decimal("12345678901234567890.000000001"),
            "note": None,
        },
    ]
    as_csv = there.night("sql", ROWS, "--csv")
    assert as_csv.out.splitlines() == [
        "id,name,payout,note",
        '-1,NULL,0.100000000,""',
        "9007199254740993,城市,12345678901234567890.000000001,",
    ]
    table = there.night("sql", ROWS).out.splitlines()
    assert [line.split() for line in table[2:]] == [
        ["-1", '"NULL"', "0.100000000"],
        ["9007199254740993", "城市", "12345678901234567890.000000001", "NULL"],
        ["(2", "rows)"],
    ]


def test_columns_line_up_though_chinese_signs_are_two_wide(there: Warehouse) -> None:
    lines = there.night("sql", "SELECT name, 'end' AS last FROM tune.cities ORDER BY id").out.splitlines()
    words = ("last", "end", "end")
    starts = {cell_len(line[: line.rindex(word)]) for line, word in zip((lines[0], *lines[2:4]), words, strict=True)}
    assert len(starts) == 1, lines


def test_times_and_json_look_alike_on_both_databases(there: Warehouse) -> None:
    sql = (
        "SELECT TIMESTAMPTZ '2026-01-01 10:00:00.5+08' AS moment, DATE '2026-02-03' AS day, true AS yes, "
        "CAST('{\"a\": 1.00000000000000000001}' AS JSON) AS document, CAST(1.5 AS DOUBLE PRECISION) AS double"
    )
    assert list(csv.reader(io.StringIO(there.night("sql", sql, "--csv").out)))[1] == [
        "2026-01-01 02:00:00.5+00", "2026-02-03", "true", '{"a": 1.00000000000000000001}', "1.5",
    ]  # fmt: skip
    assert '"document": {"a": 1.00000000000000000001}' in there.night("sql", sql, "--json").out


def test_a_column_name_that_comes_twice_is_told_apart_in_json(there: Warehouse) -> None:
    assert json.loads(there.night("sql", "SELECT 1 AS a, 2 AS a", "--json").out) == [{"a": 1, "a_2": 2}]


@pytest.mark.parametrize(
    "write",
    [
        "DELETE FROM tune.cities",
        "UPDATE tune.cities SET id = 0",
        "INSERT INTO tune.cities (id) VALUES (1)",
        "DROP TABLE tune.cities",
        "CREATE TABLE tune.other (a INT)",
        "-- only a look\nDROP SCHEMA tune CASCADE",
        "EXPLAIN ANALYZE DELETE FROM tune.cities",
    ],
)
def test_a_write_is_refused_in_one_line(there: Warehouse, write: str) -> None:
    before = there.rows("SELECT * FROM tune.cities")
    ran = there.night.main("sql", write)
    assert (ran.code, ran.out) == (2, ""), ran
    assert "it does not only read" in ran.err
    assert ran.err.count("\n") == 1
    assert there.rows("SELECT * FROM tune.cities") == before


@pytest.mark.parametrize(
    "statement",
    [
        "COPY (SELECT 1 AS a) TO '{file}'",
        "COPY (SELECT 1 AS a) TO '{warehouse}'",
        "ATTACH '{file}' AS other",
        "EXPORT DATABASE '{file}'",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SET enable_external_access = true; COPY (SELECT 1 AS a) TO '{file}'",
    ],
)
def test_a_statement_has_the_warehouse_and_no_file(there: Warehouse, statement: str) -> None:
    before, file = there.rows("SELECT * FROM tune.cities"), there.night.home / "out.csv"
    sql = statement.format(file=file, warehouse=there.night.home / "data" / "warehouse.duckdb")
    ran = there.night.main("sql", sql)
    assert (ran.code, ran.err.count("\n"), file.exists()) == (2, 1, False), ran
    assert there.rows("SELECT * FROM tune.cities") == before


def test_a_write_is_refused_though_the_setting_was_turned_off(there: Warehouse) -> None:
    if there.database == "duckdb":
        settings, write = "SET access_mode = 'read_write'", "DELETE FROM tune.cities"
    else:
        settings = "SET default_transaction_read_only = off; SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE"
        write = "WITH gone AS (DELETE FROM tune.cities RETURNING 1) SELECT count(*) FROM gone"
    there.night.main("sql", f"{settings}; {write}")
    assert there.night.main("sql", f"{write}").code == 2
    assert len(there.rows("SELECT * FROM tune.cities")) == 2


def test_sql_that_is_wrong_says_what_is(there: Warehouse) -> None:
    ran = there.night.main("sql", "SELECT nam FROM tune.cities")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "nam" in ran.err


def test_statements_are_answered_one_after_another_until_one_is_refused(there: Warehouse) -> None:
    ran = there.night.main("sql", "SELECT 1 AS a; SELECT ';' AS b; SELECT * FROM nowhere; SELECT 4 AS d", "--csv")
    assert ran.code == 2
    assert ran.out == "a\n1\n\nb\n;\n"


def test_an_option_that_nobody_has_is_no_query(there: Warehouse) -> None:
    assert there.night.main("sql", "SELECT 1", "--cvs").code == 2
    assert there.night.main("sql", "--cvs").code == 2
    for arguments in (("--cvs", "SELECT 1"), ("SELECT 1", "--cvs"), ("--cvs",), ("--limt=5", "SELECT 1")):
        ran = there.night.main("sql", *arguments)
        assert (ran.code, ran.out) == (2, ""), arguments
        assert f"Did you mean {'--limit' if '--limt=5' in arguments else '--csv'}?" in ran.err
    for query in ("-- a comment\nSELECT 1 AS a", "--comment\nSELECT 1 AS a", "-- 1 - 1\nSELECT 1 AS a"):
        assert there.night.main("sql", "--csv", query).out == "a\n1\n", query


def test_sql_comes_from_stdin(there: Warehouse) -> None:
    ran = there.night("sql", "-", "--csv", input="SELECT count(*) AS n\nFROM tune.cities\n")
    assert (ran.code, ran.out) == (0, "n\n2\n")


def test_rows_that_were_left_out_are_told(there: Warehouse) -> None:
    ran = there.night.main("sql", MANY[there.database].format(101))
    assert "(100 rows)" in ran.out
    assert "more rows than 100" in ran.err
    assert "(101 rows)" in there.night.main("sql", MANY[there.database].format(101), "--limit", "0").out
    ran = there.night.main("sql", ROWS, "--csv", "--limit", "1")
    assert (len(ran.out.splitlines()), "more rows than 1" in ran.err) == (2, True)
    assert there.night.main("sql", ROWS, "--limit", "2").err == ""


def test_a_large_answer_streams_in_bounded_memory(there: Warehouse) -> None:
    """200 MB of rows."""
    command = [str(NIGHTLOAD), "sql", MANY[there.database].format(400_000), "--csv"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=there.night.environment(), cwd=there.night.home) as ran:
        assert ran.stdout is not None
        # of the process itself, not of the one that it was forked from
        peak = 0
        for lines, _ in enumerate(ran.stdout, start=1):
            if lines % 10_000 == 0:
                told = Path(f"/proc/{ran.pid}/status").read_text()
                peak = max(peak, int(told.partition("VmHWM:")[2].split()[0]))
    assert (lines, ran.returncode) == (400_001, 0)
    assert 20 * 1024 < peak < 160 * 1024, f"{peak // 1024} MB"


def test_one_who_has_read_enough_is_no_mistake(there: Warehouse) -> None:
    command = [str(NIGHTLOAD), "sql", MANY[there.database].format(400_000), "--csv"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=there.night.environment(), cwd=there.night.home
    ) as ran:
        assert ran.stdout is not None and ran.stderr is not None
        assert ran.stdout.readline() == b"id,text\n"
        ran.stdout.close()
        assert ran.stderr.read() == b""
        assert ran.wait(30) == 0


def test_an_answer_comes_without_dlt_and_within_a_second_of_cpu(there: Warehouse) -> None:
    program = (
        "import resource, sys; from pipelines.cli import main as cli\n"
        "try: cli.main()\n"
        "finally:\n"
        " used = resource.getrusage(resource.RUSAGE_SELF)\n"
        " print(used.ru_utime + used.ru_stime, sorted({'dlt', 'pyarrow', 'sqlglot'} & set(sys.modules)))"
    )
    ran = there.night.start("sql", "SELECT 1", command=(sys.executable, "-c", program))
    out, err = ran.communicate(timeout=60)
    seconds, modules = out.splitlines()[-1].split(" ", 1)
    assert (ran.returncode, modules) == (0, "[]"), err
    assert float(seconds) < 1


def test_ctrl_c_ends_a_query(there: Warehouse) -> None:
    ran = there.night.start("sql", SLOW[there.database])
    time.sleep(2.5)
    ran.send_signal(signal.SIGINT)
    ran.send_signal(signal.SIGINT)
    _, err = ran.communicate(timeout=20)
    assert (ran.returncode, err) == (130, "nightload: the query was interrupted\n")
    if there.url is not None:
        assert execute(there.url, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' "
                       "AND pid <> pg_backend_pid() AND state = 'active'") == [(0,)]  # fmt: skip


def test_no_password_is_in_an_error(there: Warehouse) -> None:
    if there.url is None:
        return
    for url in (
        there.url.replace(PASSWORD, "CANARYwrong-password"),
        there.url.rpartition("/")[0] + "/nowhere",
        there.url.replace("127.0.0.1", "127.0.0.1:1")[: there.url.index("@")] + "@127.0.0.1:1/x",
    ):
        ran = there.night("sql", "SELECT 1", env={"NIGHTLOAD_WAREHOUSE": url})
        assert ran.code in (1, 2)
        assert "CANARY" not in ran.out + ran.err
        assert ran.err.count("\n") == 1, ran.err
    ran = there.night("sql", "SELECT FROM WHERE")
    assert "CANARY" not in ran.err


def test_a_home_without_a_warehouse_says_how_to_get_one(tmp_path: Path) -> None:
    ran = Night(home=tmp_path).main("sql", "SELECT 1")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "nightload run" in ran.err


def test_the_shell_reads_a_pipe(there: Warehouse) -> None:
    typed = ".tables tune\n.schema tune.cities\nSELECT 1 AS one; SELECT\n  'a;b' AS two\n;\nSELECT 3 AS three"
    ran = there.night("sql", input=typed)
    assert (ran.code, ran.err) == (0, "")
    for told in ("tune.cities  where it was", "id", "key", "one", "a;b", "three"):
        assert told in ran.out
    assert "nightload>" not in ran.out


def test_the_shell_goes_on_after_a_mistake_and_ends_with_its_code(there: Warehouse) -> None:
    ran = there.night(
        "sql", input="SELECT * FROM nowhere;\n.nothing\n.schema tune.citis\nSELECT 1 AS one;\n.quit\nX;\n"
    )
    assert ran.code == 2
    assert "one" in ran.out
    assert ran.err.count("\n") == 3
    assert "Did you mean tune.cities?" in ran.err


def test_the_shell_on_a_terminal(there: Warehouse) -> None:
    """Several lines until the semicolon, Ctrl-C forgets them, Ctrl-D leaves, the history is for one's own eyes."""
    main, other = pty.openpty()
    environment = {**there.night.environment(), "TERM": "dumb"}
    shell = subprocess.Popen(
        [str(NIGHTLOAD), "sql"], stdin=other, stdout=other, stderr=other, env=environment, cwd=there.night.home,
        start_new_session=True, preexec_fn=_own_terminal,
    )  # fmt: skip
    os.close(other)
    _until(main, "nightload> ")
    os.write(main, b"SELECT nonsense\n")
    _until(main, "...> ")
    _until(main, "nightload> ", press=b"\x03")
    os.write(main, b"SELECT 40 + 2\n")
    _until(main, "...> ")
    os.write(main, " AS 答案;\n".encode())
    assert "42" in _until(main, "nightload> ")
    os.write(main, b"\x04")
    assert shell.wait(300) == 0
    os.close(main)
    (history,) = there.night.home.glob("data/*.nightload/sql_history")
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    assert "SELECT 40 + 2" in history.read_text(encoding="utf-8")


def _own_terminal() -> None:
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # where the tests run in the background, Ctrl-C is ignored


def _until(terminal: int, text: str, *, press: bytes = b"", seconds: float = 300) -> str:
    """What is shown until the text is; the key is pressed, and again after ten seconds in which nothing was shown.

    A Ctrl-C between a prompt and the reading of the line after it waits in Python for the next key.
    """
    seen, until = b"", time.monotonic() + seconds
    os.write(terminal, press)
    while text not in seen.decode("utf-8", "replace"):
        assert time.monotonic() < until, seen
        if select.select([terminal], [], [], 10)[0]:
            seen += os.read(terminal, 4096)
        else:
            os.write(terminal, press)
    return seen.decode("utf-8", "replace")


def test_the_shell_sees_what_a_night_has_swapped_in(tmp_path: Path) -> None:
    night = Night(home=tmp_path)
    _seed(night.warehouse)
    shell = night.start("sql", "--csv", stdin=subprocess.PIPE)
    assert shell.stdin is not None and shell.stdout is not None
    shell.stdin.write("SELECT count(*) AS n FROM tune.cities;\n")
    shell.stdin.flush()
    assert [shell.stdout.readline() for _ in range(2)] == ["n\n", "2\n"]
    build = night.home / "warehouse.duckdb"
    _seed(build)
    with duckdb.connect(str(build)) as connection:
        connection.execute("INSERT INTO tune.cities (id) VALUES (3)")
    os.replace(build, night.warehouse)
    out, err = shell.communicate("SELECT count(*) AS n FROM tune.cities;\n", timeout=30)
    assert out == "\nn\n3\n"
    assert "a night has published" in err


def test_an_idle_shell_holds_no_transaction(there: Warehouse) -> None:
    if there.url is None:
        return
    shell = there.night.start("sql", "--csv", stdin=subprocess.PIPE)
    assert shell.stdin is not None and shell.stdout is not None
    shell.stdin.write("SELECT 1 AS one;\n")
    shell.stdin.flush()
    assert [shell.stdout.readline() for _ in range(2)] == ["one\n", "1\n"]
    time.sleep(0.3)
    states = "SELECT DISTINCT state FROM pg_stat_activity WHERE application_name = 'nightload'"
    assert execute(there.url, states) == [("idle",)]
    shell.communicate(timeout=20)


@pytest.mark.parametrize(
    "sql,statements,rest",
    [
        ("SELECT 1", [], "SELECT 1"),
        (";; SELECT 1 ;", ["SELECT 1"], ""),
        ("SELECT ';' ; SELECT \";\" ; -- a; b\nSELECT 3", ["SELECT ';'", 'SELECT ";"'], "-- a; b\nSELECT 3"),
        ("SELECT $$a;b$$; SELECT $x$a;$$;$x$;", ["SELECT $$a;b$$", "SELECT $x$a;$$;$x$"], ""),
        ("SELECT E'it\\'s;' ; SELECT 'it''s;' ;", ["SELECT E'it\\'s;'", "SELECT 'it''s;'"], ""),
        ("/* ; /* ; */ ; */ SELECT 1; /* open ;", ["/* ; /* ; */ ; */ SELECT 1"], "/* open ;"),
        ("SELECT 'open ;", [], "SELECT 'open ;"),
        ("SELECT a$1$b; SELECT 2;", ["SELECT a$1$b", "SELECT 2"], ""),
        ("-- nothing but words;\n", [], ""),
        ("SELECT 1 -- a;\r; SELECT 2", ["SELECT 1 -- a;"], "SELECT 2"),
    ],
)
def test_a_semicolon_ends_a_statement_only_where_it_is_one(sql: str, statements: list[str], rest: str) -> None:
    assert split(sql) == (statements, rest)


def test_the_first_word_says_what_a_statement_does() -> None:
    assert first_word("/* a */ -- b\n ((select 1))") == "SELECT"
    assert first_word("") == ""


def test_bytes_and_nested_values_have_a_text() -> None:
    assert as_text(b"\x00\xff") == "\\x00ff"
    assert as_text([1, {"城": Decimal("1.10")}]) == '[1, {"城": "1.10"}]'
