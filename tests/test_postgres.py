"""What is promised of a Postgres beyond what both databases promise: its locks, rights, views, and lost connections."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from conftest import Database, Night, settle
from pipelines.run.reconcile import count
from pipelines.warehouse.postgres import connection as postgres_connection
from pipelines.warehouse.postgres import warehouse
from postgres_server import execute, fresh_database, with_database
from reference import truth
from sandbox_process import SandboxProcess
from sources.extract.sync import Outcome
from sources.extract.table import Mode
from test_readme import ROOT, blocks
from test_run import edit, few_tables

PAGE = ROOT / "docs" / "warehouse.md"
ROLE, ROLE_PASSWORD = "night_loader", "CANARY-role-password"


@pytest.fixture
def url(postgres: str) -> Iterator[str]:
    with fresh_database(postgres, "nightload_only") as url:
        yield url


@pytest.fixture
def night(sandbox: SandboxProcess, tmp_path: Path, url: str) -> Night:
    return few_tables(settle(Night(home=tmp_path, database=Database.at(url)), sandbox))


@pytest.fixture
def sql(url: str) -> Any:
    return lambda *statements: execute(url, *statements)


@contextmanager
def held(url: str, statement: str) -> Iterator[psycopg2.extensions.connection]:
    """Somebody else's open transaction in which `statement` was carried out."""
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        cursor.execute(statement)
        yield connection


def snippets(sql: Any) -> list[Any]:
    return list(sql("SELECT id, snippet FROM tonalytica.query_snippets WHERE _deleted_at IS NULL ORDER BY id"))


def test_nothing_but_the_warehouse_is_left_in_the_database(night: Night, sql: Any) -> None:
    assert night.run().code == 0
    schemas = {name for (name,) in sql("SELECT nspname FROM pg_namespace WHERE nspname !~ '^(pg_|information_schema)'")}
    assert schemas == {"public", "nightload", "tonalytica", "tune"}


def test_types_are_those_that_analysts_expect(night: Night, sql: Any) -> None:
    night.set(exclude=["results", "visualizations", "widgets"])
    assert night.run("tonalytica").code == 0
    types = dict(
        sql(
            "SELECT column_name, data_type FROM information_schema.columns "
            "WHERE table_schema = 'tonalytica' AND table_name = 'queries'"
        )
    )
    assert (types["id"], types["name"], types["options"], types["tags"], types["is_draft"], types["created_at"]) == (
        "bigint",
        "character varying",
        "jsonb",
        "jsonb",
        "boolean",
        "timestamp with time zone",
    )


def test_each_key_has_one_index_however_many_nights(night: Night, sql: Any, sandbox: SandboxProcess) -> None:
    assert night.run("tonalytica").code == 0
    edit(sandbox, "query_snippets", 1, snippet="changed")
    assert night.run("tonalytica").code == 0
    indexes = sql("SELECT indexdef FROM pg_indexes WHERE schemaname = 'tonalytica' AND tablename = 'query_snippets'")
    assert [definition.partition(" ON ")[2] for (definition,) in indexes] == [
        "tonalytica.query_snippets USING btree (id)"
    ]


def test_a_second_run_on_the_same_database_is_refused_from_another_home(night: Night, tmp_path: Path, url: str) -> None:
    """The file lock of this machine knows nothing of the other machine: the database does."""
    other = Night(home=tmp_path / "other", settings=dict(night.settings), database=night.database)
    other.home.mkdir()
    with closing(warehouse.Postgres(url, shown="the first machine")):
        ran = other.main("run", "--json")
        assert (ran.code, ran.json["status"]) == (3, "locked")
    assert other.main("run").code == 0


def test_readers_see_a_vendor_whole_or_as_it_was_and_never_wait(
    night: Night, sandbox: SandboxProcess, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.run import load

    assert night.run("tonalytica").code == 0
    before = snippets(sql)
    seen: list[tuple[list[Any], float]] = []
    count = load._count

    def read_then_count(*told: Any) -> None:
        started = time.monotonic()
        seen.append((snippets(sql), time.monotonic() - started))
        count(*told)

    edit(sandbox, "query_snippets", 1, snippet="changed")
    sandbox.control("tonalytica", "POST", "edit", {"table": "query_snippets", "op": "delete", "key": 2})
    monkeypatch.setattr(load, "_count", read_then_count)
    assert night.run("tonalytica").code == 0
    assert [rows for rows, _ in seen] == [before]
    assert all(waited < 5 for _, waited in seen)
    assert snippets(sql) == sorted((row["id"], row["snippet"]) for row in truth(sandbox, "query_snippets"))


@pytest.mark.parametrize(
    "moment", ["pipelines.run.load:_count", "pipelines.warehouse.postgres.dlt_destination:BinaryCopyJob.run"]
)
def test_a_connection_lost_in_mid_load_changes_nothing_and_the_other_vendors_go_on(
    moment: str, night: Night, sandbox: SandboxProcess, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    night.settings["NIGHTLOAD__SIDE_BY_SIDE"] = "1"  # which one is first is known then
    assert night.run().code == 0
    before = snippets(sql)
    edit(sandbox, "query_snippets", 1, snippet="changed")
    edit(sandbox, "advertiser", truth(sandbox, "advertiser", "tune")[0]["id"], vendor="tune", name="renamed")
    cut = []

    def cutting(original: Any) -> Any:
        def cut_once(*told: Any, **named: Any) -> Any:
            if not cut:
                cut.append(1)
                low = warehouse.LOAD_LOCK & 0xFFFFFFFF
                sql(f"SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND objid = {low}")
            return original(*told, **named)

        return cut_once

    place, _, name = moment.partition(":")
    owner: Any = __import__(place, fromlist=["_"])
    for part in name.split(".")[:-1]:
        owner = getattr(owner, part)
    monkeypatch.setattr(owner, name.split(".")[-1], cutting(getattr(owner, name.split(".")[-1])))
    ran = night.run()
    assert cut
    first, second = ran.json["vendors"]
    assert (ran.code, first["status"], second["status"]) == (1, "failed", "ok")
    assert "the connection to the database was lost" in first["error"]
    assert snippets(sql) == before
    assert sql("SELECT count(*) FROM tune.advertiser WHERE name = 'renamed'") == [(1,)]
    assert night.run().code == 0
    assert (1, "changed") in snippets(sql)


def test_a_server_that_starts_anew_costs_one_vendor_and_not_the_lock(
    night: Night, sandbox: SandboxProcess, url: str, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every connection of the run is cut; the vendor after goes on, and the run has its lock again."""
    from pipelines.run import load

    night.settings["NIGHTLOAD__SIDE_BY_SIDE"] = "1"  # which one is first is known then
    assert night.run().code == 0
    edit(sandbox, "query_snippets", 1, snippet="changed")
    edit(sandbox, "advertiser", truth(sandbox, "advertiser", "tune")[0]["id"], vendor="tune", name="renamed")
    cut: list[int] = []
    locks: list[int] = []
    count = load._count

    def cutting(*told: Any) -> None:
        if not cut:
            cut.append(1)
            sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'nightload'")
        else:
            low = warehouse.RUN_LOCK & 0xFFFFFFFF
            locks.append(sql(f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = {low}")[0][0])
        count(*told)

    monkeypatch.setattr(load, "_count", cutting)
    first, second = night.run().json["vendors"]
    assert (first["status"], second["status"]) == ("failed", "ok")
    assert locks == [1]
    assert sql("SELECT count(*) FROM tune.advertiser WHERE name = 'renamed'") == [(1,)]


def test_a_commit_whose_answer_is_lost_is_looked_up(
    night: Night, sandbox: SandboxProcess, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert night.run("tonalytica").code == 0
    edit(sandbox, "query_snippets", 1, snippet="changed")
    end = postgres_connection.Shared.end

    def lost_after(self: postgres_connection.Shared, *, commit: bool) -> None:
        end(self, commit=commit)
        if commit:
            raise psycopg2.OperationalError("server closed the connection unexpectedly")

    with monkeypatch.context() as patched:
        patched.setattr(postgres_connection.Shared, "end", lost_after)
        assert night.run("tonalytica").code == 0
    assert (1, "changed") in snippets(sql)

    def lost_before(self: postgres_connection.Shared, *, commit: bool) -> None:
        end(self, commit=False)
        if commit:
            raise psycopg2.OperationalError("server closed the connection unexpectedly")

    edit(sandbox, "query_snippets", 1, snippet="changed again")
    with monkeypatch.context() as patched:
        patched.setattr(postgres_connection.Shared, "end", lost_before)
        assert night.run("tonalytica").code == 1
    assert (1, "changed") in snippets(sql)
    assert night.run("tonalytica").code == 0
    assert (1, "changed again") in snippets(sql)


def test_a_locked_table_is_waited_for(night: Night, sandbox: SandboxProcess, url: str, sql: Any) -> None:
    assert night.run("tonalytica").code == 0
    edit(sandbox, "query_snippets", 1, snippet="changed")
    with held(url, "LOCK TABLE tonalytica.query_snippets IN EXCLUSIVE MODE") as connection:
        let_go = threading.Timer(2.0, connection.rollback)
        let_go.start()
        assert night.run("tonalytica").code == 0
        let_go.join()
    assert (1, "changed") in snippets(sql)


def test_a_table_that_stays_locked_is_told_with_who_has_it(
    night: Night, sandbox: SandboxProcess, url: str, sql: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert night.run("tonalytica").code == 0
    edit(sandbox, "query_snippets", 1, snippet="changed")
    monkeypatch.setitem(postgres_connection.SETTINGS, "lock_timeout", "300ms")
    with held(url, "LOCK TABLE tonalytica.query_snippets IN EXCLUSIVE MODE") as connection:
        ran = night.run("tonalytica")
        (vendor,) = ran.json["vendors"]
        assert (ran.code, vendor["status"]) == (1, "failed")
        for told in ("a table stayed locked", f"pid {connection.info.backend_pid}", "Nothing was changed"):
            assert told in vendor["error"]
    assert night.run("tonalytica").code == 0
    assert (1, "changed") in snippets(sql)


def test_a_full_disk_of_the_server_is_told_and_nothing_is_lost(night: Night, sandbox: SandboxProcess, sql: Any) -> None:
    """The server's own code for it, raised where it would be: when a row is written."""
    assert night.run("tonalytica").code == 0
    before = snippets(sql)
    edit(sandbox, "query_snippets", 1, snippet="changed")
    sql(
        "CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$",
        "CREATE TRIGGER no_room BEFORE INSERT ON tonalytica.query_snippets EXECUTE FUNCTION no_room()",
    )
    ran = night.run("tonalytica")
    (vendor,) = ran.json["vendors"]
    assert (ran.code, vendor["status"], "the database server has no room left" in vendor["error"]) == (
        1,
        "failed",
        True,
    )
    assert snippets(sql) == before
    sql("DROP FUNCTION no_room CASCADE")
    assert night.run("tonalytica").code == 0
    assert (1, "changed") in snippets(sql)


@pytest.fixture
def least(night: Night, postgres: str, url: str, sql: Any) -> Iterator[Night]:
    """The night as a role that may not make schemas: they are made for it, as docs/warehouse.md says."""
    schemas = [
        "nightload",
        *(name for each in ("tonalytica", "tonalytica_results", "tune") for name in (each, f"{each}_staging")),
    ]
    sql(
        f"DROP ROLE IF EXISTS {ROLE}",
        f"CREATE ROLE {ROLE} LOGIN PASSWORD '{ROLE_PASSWORD}'",
        *(f"CREATE SCHEMA {schema}" for schema in schemas),
        *(f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {ROLE}" for schema in schemas),
        "REVOKE CREATE ON DATABASE nightload_only FROM PUBLIC",
    )
    night.database = Database(
        with_database(postgres, "nightload_only").replace("postgres:CANARY-postgres", f"{ROLE}:{ROLE_PASSWORD}"),
        night.database.mirror,
    )
    yield night
    sql(f"DROP OWNED BY {ROLE} CASCADE", f"DROP ROLE {ROLE}")


def test_a_role_that_may_make_no_schema_loads_into_those_made_for_it(
    least: Night, sandbox: SandboxProcess, sql: Any
) -> None:
    assert least.main("run").code == 0
    edit(sandbox, "query_snippets", 1, snippet="changed")
    assert least.main("run").code == 0
    assert (1, "changed") in snippets(sql)
    assert sql("SELECT count(*) FROM pg_tables WHERE schemaname LIKE '%staging'") == [(0,)]


def test_a_role_that_may_make_no_schema_drops_a_table_and_loads_it_again(least: Night, sql: Any) -> None:
    assert least.run("tonalytica", tables=["tonalytica.query_snippets", "tonalytica.alerts"]).code == 0
    ran = least.main("drop", "tonalytica.alerts", "--yes")
    assert ran.code == 0, ran.err
    assert sql("SELECT tablename FROM pg_tables WHERE schemaname = 'tonalytica' AND tablename = 'alerts'") == []
    assert least.run("tonalytica", tables=["tonalytica.alerts"]).tables["tonalytica.alerts"]["landed"] == 8


def readme_sql(first: str) -> list[str]:
    """The statements of the page's block of SQL that begins so."""
    (block,) = [block for block in blocks(PAGE, "sql") if block.startswith(first)]
    return [statement.strip() for statement in block.split(";") if statement.strip()]


@pytest.mark.parametrize("typed", ["before the first load", "after the first load", "after, by the role itself"])
def test_the_grants_of_the_readme_let_analysts_read_whenever_typed(
    typed: str, night: Night, sandbox: SandboxProcess, postgres: str, url: str, sql: Any
) -> None:
    sql("DROP ROLE IF EXISTS analysts", "DROP ROLE IF EXISTS nightload")
    analyst = with_database(postgres, "nightload_only").replace("postgres:CANARY-postgres", "analysts:CANARY-analyst")
    loader = with_database(postgres, "nightload_only").replace("postgres:CANARY-postgres", "nightload:CANARY-loader")
    role, grant = (each.replace("'…'", "'CANARY-loader'") for each in readme_sql("CREATE ROLE nightload"))
    grants = readme_sql("GRANT USAGE ON SCHEMA tune TO analysts")
    sql(role, "CREATE ROLE analysts LOGIN PASSWORD 'CANARY-analyst'")
    try:
        night.database = Database(loader, night.database.mirror)
        if typed == "before the first load":
            sql(*readme_sql("CREATE SCHEMA nightload"), *grants)
        else:
            sql(grant.replace("analytics", "nightload_only"))
        assert night.main("run", "tune").code == 0
        tables = [
            name
            for (name,) in sql("SELECT tablename FROM pg_tables WHERE schemaname = 'tune' AND tablename !~ '^_dlt'")
        ]
        if typed != "before the first load":
            with pytest.raises(psycopg2.errors.InsufficientPrivilege):
                execute(analyst, f"SELECT * FROM tune.{tables[0]}")
            execute(url if typed == "after the first load" else loader, *grants)

        def may_read_all() -> bool:
            return all(execute(analyst, f'SELECT count(*) FROM tune."{name}"') for name in tables)

        assert tables and may_read_all()
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            execute(analyst, f"DELETE FROM tune.{tables[0]}")
        assert night.main("run", "tune", "--full").code == 0
        execute(loader, "CREATE TABLE tune.made_later AS SELECT 1 AS n")
        tables.append("made_later")
        assert may_read_all(), "of new tables too"
    finally:
        sql(*(f"DROP OWNED BY {name} CASCADE" for name in ("analysts", "nightload")), "DROP ROLE analysts, nightload")


def test_a_right_that_is_missing_is_named(least: Night, sandbox: SandboxProcess, sql: Any) -> None:
    sql("REVOKE CREATE ON SCHEMA tonalytica FROM night_loader")
    ran = least.main("run", "--json")
    first, second = ran.json["vendors"]
    assert (first["status"], second["status"]) == ("failed", "ok")
    for told in ("refuses a right", "permission denied for schema tonalytica", "Grant it"):
        assert told in first["error"]
    sql("GRANT CREATE ON SCHEMA tonalytica TO night_loader")
    assert least.main("run").code == 0
    sql("REVOKE ALL ON tonalytica.query_snippets FROM night_loader")
    edit(sandbox, "query_snippets", 1, snippet="changed")
    ran = least.main("run", "--json")
    assert "permission denied for table query_snippets" in ran.json["vendors"][0]["error"]
    sql("GRANT ALL ON tonalytica.query_snippets TO night_loader")
    assert least.main("run").code == 0
    assert (1, "changed") in snippets(sql)


def test_views_and_grants_outlive_a_table_that_is_made_anew(night: Night, sandbox: SandboxProcess, sql: Any) -> None:
    """A result that widens from integers to numbers with a point is built anew, under the views that analysts made."""
    night.set(exclude=["visualizations", "dashboards", "widgets", "alerts", "users"])
    (key, *_) = sorted(
        row["id"] for row in truth(sandbox, "queries") if row["_where"] == "list" and row["latest_query_data_id"]
    )
    night.set(results={"include": {"ids": [key]}})
    execute_query(sandbox, key, [{"n": 1, "t": "one"}])
    assert night.run("tonalytica").code == 0
    sql(
        "CREATE ROLE nightload_ana",
        "CREATE SCHEMA marts",
        "CREATE VIEW marts.doubled WITH (security_barrier=true) AS "
        f"SELECT n * 2 AS n2, t FROM tonalytica_results.query_{key}",
        "CREATE VIEW marts.on_top AS SELECT max(n2) AS most FROM marts.doubled",
        "CREATE MATERIALIZED VIEW marts.kept AS SELECT * FROM marts.doubled",
        "CREATE INDEX kept_by_t ON marts.kept (t)",
        "COMMENT ON VIEW marts.doubled IS 'twice it''s'",
        "GRANT SELECT ON marts.doubled TO nightload_ana",
        f"GRANT SELECT ON tonalytica_results.query_{key} TO nightload_ana",
    )
    try:
        execute_query(sandbox, key, [{"n": 1.5, "t": "one and a half"}, {"n": 2, "t": "two"}])
        ran = night.run("tonalytica")
        assert ran.code == 0, ran.out
        assert [float(most) for (most,) in sql("SELECT most FROM marts.on_top")] == [4.0]
        assert len(sql("SELECT * FROM marts.kept")) == 2
        assert sql("SELECT obj_description('marts.doubled'::regclass)") == [("twice it's",)]
        assert sql("SELECT reloptions FROM pg_class WHERE relname = 'doubled'") == [(["security_barrier=true"],)]
        assert sql("SELECT indexname FROM pg_indexes WHERE schemaname = 'marts'") == [("kept_by_t",)]
        may = sql(
            f"SELECT has_table_privilege('nightload_ana', 'tonalytica_results.query_{key}', 'SELECT'), "
            "has_table_privilege('nightload_ana', 'marts.doubled', 'SELECT'), "
            "has_table_privilege('nightload_ana', 'marts.on_top', 'SELECT')"
        )
        assert may == [(True, True, False)]

        # a view that the new table does not bear keeps the old table, and is named
        execute_query(sandbox, key, [{"n": "no number"}])
        ran = night.run("tonalytica", full=True, tables=[f"tonalytica_results.query_{key}"])
        assert ran.code != 0
        assert "doubled" in ran.json["vendors"][0]["error"]
        assert len(sql(f"SELECT * FROM tonalytica_results.query_{key}")) == 2
    finally:
        sql("DROP SCHEMA marts CASCADE", "DROP OWNED BY nightload_ana", "DROP ROLE nightload_ana")


def execute_query(sandbox: SandboxProcess, key: int, rows: list[dict[str, Any]]) -> None:
    edit = {"table": "queries", "op": "execute", "key": key, "row": {"rows": rows}}
    sandbox.control("tonalytica", "POST", "edit", edit)


def test_a_database_of_another_encoding_is_refused(night: Night, postgres: str) -> None:
    name = "nightload_latin"
    execute(postgres, f"DROP DATABASE IF EXISTS {name}", f"CREATE DATABASE {name} ENCODING 'LATIN1' TEMPLATE template0")
    try:
        ran = night.main("run", env={"NIGHTLOAD_WAREHOUSE": with_database(postgres, name)})
        assert (ran.code, ran.err.count("\n")) == (2, 1)
        for told in ("this Postgres cannot be the warehouse", "encoding LATIN1", "ENCODING 'UTF8'"):
            assert told in ran.err
    finally:
        execute(postgres, f"DROP DATABASE {name}")


def test_a_database_that_is_read_only_is_said_to_be_so_and_tried_again(night: Night, sql: Any) -> None:
    sql("ALTER DATABASE nightload_only SET default_transaction_read_only = on")
    ran = night.main("run")
    assert ran.code == 1
    assert "the database is read-only" in ran.err
    assert "transaction_read_only is on" in ran.err
    assert ran.err.count("\n") == 1
    night.settings |= {"NIGHTLOAD__PAUSES": '["0s"]', "NIGHTLOAD__UNTIL": "30m"}
    with closing(psycopg2.connect(night.database.url or "")) as connection:
        connection.set_session(readonly=False, autocommit=True)
        with connection.cursor() as cursor:
            promoted = "ALTER DATABASE nightload_only RESET default_transaction_read_only"
            later = threading.Timer(1.5, cursor.execute, [promoted])
            later.start()
            assert night.main("run").code == 0
            later.join()


def test_a_database_that_turns_read_only_in_mid_load_is_said_to_be_so(
    night: Night, sandbox: SandboxProcess, sql: Any
) -> None:
    assert night.run("tonalytica").code == 0
    edit(sandbox, "query_snippets", 1, snippet="changed")
    sql(
        "CREATE FUNCTION standby() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION "
        "'cannot execute INSERT in a read-only transaction' USING ERRCODE = 'read_only_sql_transaction'; END $$",
        "CREATE TRIGGER standby BEFORE INSERT ON tonalytica.query_snippets EXECUTE FUNCTION standby()",
    )
    (vendor,) = night.run("tonalytica").json["vendors"]
    assert vendor["status"] == "failed"
    assert "the database is read-only" in vendor["error"]
    sql("DROP FUNCTION standby CASCADE")
    assert night.run("tonalytica").code == 0


def test_a_role_that_may_not_connect_is_told_which_right_it_needs(least: Night, sql: Any) -> None:
    sql("REVOKE CONNECT ON DATABASE nightload_only FROM PUBLIC")
    for command in (["run"], ["sql", "SELECT 1"]):
        ran = least.main(*command)
        assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
        assert "permission denied for database" in ran.err
        assert "GRANT CONNECT" in ran.err


@pytest.mark.parametrize("encoding", ["GBK", "LATIN1", "SQL_ASCII"])
@pytest.mark.parametrize("given", ["environment", "role"])
def test_a_client_encoding_that_somebody_set_changes_no_text(
    given: str, encoding: str, night: Night, sandbox: SandboxProcess, sql: Any
) -> None:
    if given == "environment":
        night.settings["PGCLIENTENCODING"] = encoding
    else:
        sql(f"ALTER ROLE postgres IN DATABASE nightload_only SET client_encoding = '{encoding}'")
    try:
        text = "总锁仓量 é 🚀"
        edit(sandbox, "query_snippets", 1, snippet=text)
        assert night.run("tonalytica").code == 0
        read = night.main("sql", "--json", "SELECT snippet AS 锁仓 FROM tonalytica.query_snippets WHERE id = 1")
        assert (read.code, json.loads(read.out or "[]")) == (0, [{"锁仓": text}])
        night.settings.pop("PGCLIENTENCODING", None)
        assert execute_utf8(night, "SELECT snippet FROM tonalytica.query_snippets WHERE id = 1") == [(text,)]
    finally:
        sql("ALTER ROLE postgres IN DATABASE nightload_only RESET client_encoding")


def execute_utf8(night: Night, statement: str) -> list[tuple[Any, ...]]:
    assert night.database.url is not None
    with (
        closing(psycopg2.connect(night.database.url, client_encoding="UTF8")) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(statement)
        return cursor.fetchall()


@pytest.mark.parametrize(
    ("change", "code", "told"),
    [
        (("CANARY-postgres@", "CANARY-wrong-password@"), 2, "does not let nightload in"),
        (("nightload_only", "nightload_nowhere"), 2, 'database "nightload_nowhere" does not exist'),
        (("127.0.0.1:", "127.0.0.1:1"), 1, "cannot be reached"),
        (("/nightload_only", ""), 2, "names no database"),
    ],
    ids=["a wrong password", "no such database", "no server", "no database named"],
)
def test_a_database_that_cannot_be_reached_is_told_in_a_line_without_the_password(
    change: tuple[str, str], code: int, told: str, night: Night, url: str
) -> None:
    port = url.rpartition(":")[2].partition("/")[0]
    wrong = url.replace(f"127.0.0.1:{port}", "127.0.0.1:1") if code == 1 else url.replace(*change)
    ran = night.main("run", env={"NIGHTLOAD_WAREHOUSE": wrong})
    assert (ran.code, ran.err.count("\n"), "CANARY" in ran.out + ran.err) == (code, 1, False), ran.err
    assert told in ran.err
    assert night.main("run").code == 0


def test_the_warehouse_may_stand_in_the_configuration(night: Night, url: str, sql: Any) -> None:
    (night.home / ".dlt").mkdir()
    (night.home / ".dlt" / "secrets.toml").write_text(f'[nightload]\nwarehouse = "{url}"\n')
    night.database = Database(None)
    assert night("run", "tonalytica").code == 0
    assert not night.warehouse.exists()
    assert len(snippets(sql)) == 6


def test_a_key_longer_than_an_index_holds_still_loads(url: str) -> None:
    with closing(warehouse.Postgres(url, shown="")) as database:
        database.begin()
        with database.write() as session:
            session.create_dataset("long")
            session.change("CREATE TABLE long.keys (id VARCHAR, n BIGINT)")
            text = "md5(random()::text)"
            session.change(f"INSERT INTO long.keys SELECT string_agg({text}, ''), 1 FROM generate_series(1, 400)")
        database.index("long", "keys", ["id"])
        with database.write() as session:
            ((definition,),) = session.query("SELECT indexdef FROM pg_indexes WHERE schemaname = 'long'")
    assert "USING hash (id)" in definition


def test_the_live_rows_of_a_large_table_are_counted_without_reading_it(url: str) -> None:
    """And what was changed behind our back shows all the same. A small table gets no index for it."""
    live = "_deleted_at IS NULL"
    execute(url, "CREATE SCHEMA many")
    for table, rows in (("large", 200_000), ("small", 1000)):
        execute(
            url,
            f"CREATE TABLE many.{table} AS SELECT n AS id, repeat('x', 400) AS text, '1.5'::varchar AS _dlt_load_id, "
            f"NULL::timestamptz AS _deleted_at FROM generate_series(1, {rows}) AS n",
            "CHECKPOINT",  # the server of the tests commits at leisure, and VACUUM waits for that
            f"VACUUM (ANALYZE) many.{table}",
        )
    with closing(warehouse.Postgres(url, shown="")) as database:
        database.begin()
        for table in ("large", "small", "large"):
            database.index_live("many", table, live)
        with database.write() as session:
            made = session.query("SELECT tablename, indexdef FROM pg_indexes WHERE schemaname = 'many'")
            assert [(table, text.partition(" USING ")[2]) for table, text in made] == [
                ("large", f"btree (_dlt_load_id) WHERE ({live})")
            ]
            session.change("DELETE FROM many.large WHERE id = 7")
            session.change("UPDATE many.large SET _dlt_load_id = '1.6' WHERE id = 8")
            session.change("UPDATE many.large SET _deleted_at = now() WHERE id = 9")
            outcome = Outcome(dataset="many", table="large", label="", mode=Mode.INCREMENTAL, load_id="1.6")
            outcome.extracted, outcome.loaded = 2, True
            report = count(session, outcome, exists=True)
            assert (report.landed, report.live, report.status) == (1, 199_998, "mismatch")
            ((plan, *_), *_) = session.query(
                f"EXPLAIN (FORMAT json) SELECT count(*) FILTER (WHERE _dlt_load_id = '1.6'), count(*) "
                f"FROM many.large WHERE {live}"
            )
    assert "Index Only Scan" in str(plan)
