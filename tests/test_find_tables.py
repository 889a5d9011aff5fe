"""Which tables a text uses is read by a parser in the source's dialect; what cannot be read is told, never left out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Database, Night
from pipelines.operations.redash.sql_tables import Used, tables_of
from reference import truth
from sandbox_process import SandboxProcess, start_sandbox

Row = dict[str, Any]

FOUND: list[tuple[str, str, list[str]]] = [
    ("postgres", "SELECT field FROM table0 LEFT JOIN table1 ON table0.field = table1.field", ["table0", "table1"]),
    ("postgres", "SELECT 1 FROM schema.table0 a, table1 AS b, table2", ["schema.table0", "table1", "table2"]),
    ("postgres", "select extract(year from d), trim(leading 'x' from y) from t", ["t"]),
    ("postgres", "select 'from nowhere', \"from\" from t -- from comment\n/* join other */", ["t"]),
    ("postgres", "select * from Ods.Events union all select * from ods.events", ["ods.events"]),
    ("postgres", 'select * from "Ods"."Events"', ["Ods.Events"]),
    ("postgres", 'select * from "数据"."钱包 表" x join 净流入 using (天)', ["净流入", "数据.钱包 表"]),
    ("postgres", "select * from generate_series(1, 5) g, unnest(array[1]) u, lateral (select * from t) l", ["t"]),
    ("postgres", "select 1 where exists (select 1 from a) and x in (select y from b)", ["a", "b"]),
    (
        "postgres",
        "insert into target select * from origin; delete from gone where 1=1; ; ",
        ["gone", "origin", "target"],
    ),
    ("postgres", "set statement_timeout = 1; explain (analyze, costs) select * from t", ["t"]),
    ("postgres", "", []),
    ("postgres", "-- nothing here", []),
    ("mysql", 'select * from `a b`.`表` where x = "from y"', ["a b.表"]),
    ("hive", "insert overwrite table x partition(ds='1') select * from y lateral view explode(z) w as v", ["x", "y"]),
    ("presto", 'select * from hive."ods".t cross join unnest(a) as u (b)', ["hive.ods.t"]),
    ("trino", 'select "#user_id" from ta.v_event_7 where "$part_date" = \'2026-01-01\'', ["ta.v_event_7"]),
    ("bigquery", "select * from `p-x.d.events_*` t, t.items i, unnest(i.tags)", ["p-x.d.events_*"]),
    ("clickhouse", "select * from db.Events final array join tags limit 1 by id", ["db.Events"]),
    ("clickhouse", "select * from numbers(10) n join url('http://x', CSV) on 1", []),
    ("tsql", "select top 5 * from [dbo].[Order Details] with (nolock)", ["dbo.order details"]),
    ("snowflake", "select * from db.public.t, table(flatten(input => x))", ["DB.PUBLIC.T"]),
    ("redshift", "select * from spectrum.t", ["spectrum.t"]),
    ("sqlite", "select * from query_12 join cached_query_3 using (id)", ["cached_query_3", "query_12"]),
    ("sqlite", "select * from param_query_12_{token={{ x }}&y=2}", ["query_12"]),
]


@pytest.mark.parametrize(("dialect", "sql", "tables"), FOUND)
def test_tables_are_found_in_the_dialect_of_their_source(dialect: str, sql: str, tables: list[str]) -> None:
    assert tables_of(sql, (dialect,)) == Used(tables=tuple(tables))


CTES = [
    ("with a as (select * from b), c as (select * from a) select * from c join d on true", ["b", "d"]),
    # in its own body the name still means the table
    ("with events as (select * from events) select * from events", ["events"]),
    # defined later: not seen by the first
    ("with a as (select * from b), b as (select 1) select * from a, b", ["b"]),
    ("with recursive n as (select 1 union all select * from n) select * from n, t", ["t"]),
    ("select * from (with a as (select * from t) select * from a) x, a", ["a", "t"]),
    ("with A as (select 1 from t) select * from a", ["t"]),
    ("with a as (select 1 from t) select * from ods.a", ["ods.a", "t"]),
    ("with a as (select 1 from t) select 1; select * from a", ["a", "t"]),
    ("with a as (select 1 from t) insert into x select * from a", ["t", "x"]),
    ("with a as (select 1 from t) select (select max(v) from (select * from a) s) from u", ["t", "u"]),
]


@pytest.mark.parametrize(("sql", "tables"), CTES)
def test_names_of_ctes_are_told_from_tables(sql: str, tables: list[str]) -> None:
    assert tables_of(sql, ("postgres",)) == Used(tables=tuple(tables))


TEMPLATES = [
    ("select * from t where id < {{ 上限 }} and label = '{{ needle }}' limit {{n}}", ["t"]),
    ("select * from t where day between '{{ p.start }}' and '{{ p.end }}' and k in ({{ kinds }})", ["t"]),
    ("select * from t where 1 = 1 {{ filter }}", ["t"]),
    ("select * from t where name like '%{{ x }}%' and note = 'it''s {{ y }}' {{ filter }}", ["t"]),
    ("select date {{ day }} from t", ["t"]),
    ("select {{{ raw }}}, {{& also }} from t {{! from nowhere }}", ["t"]),
    ("select * from t {{#deep}}join u using (id){{/deep}}", ["t", "u"]),
    ("select * from {{#old}}t{{/old}}{{^old}}u{{/old}}", ["t", "u"]),
    ("select * from {{#a}}{{^b}}t{{/b}}{{#b}}u{{/b}}{{/a}}{{^a}}v{{/a}}", ["t", "u", "v"]),
    ("select 1 -- {{ commented }} from x\nfrom t", ["t"]),
    ('select * from "{{ Name of it }}" where 1 = 1 {{ filter }}', ["{{ Name of it }}"]),
    ("select nlp0q from t where x = {{ y }}", ["t"]),
]


@pytest.mark.parametrize(("sql", "tables"), TEMPLATES)
def test_templates_are_filled_in_before_they_are_read(sql: str, tables: list[str]) -> None:
    assert tables_of(sql, ("postgres",)) == Used(tables=tuple(tables))


def test_a_table_that_a_parameter_names_is_told_by_its_default_and_as_written() -> None:
    values = {"env": "Prod", "t": "ods.events", "period": {"start": "2026-01-01"}, "odd": "a b; drop"}
    sql = "select * from s_{{ env }}.x, {{t}} e, y_{{ period.start }}, {{ odd }}.z, {{ none }}"
    assert tables_of(sql, ("postgres",), values=values) == Used(
        tables=("ods.events", "s_prod.x", "y_{{ period.start }}", "{{ none }}", "{{ odd }}.z"),
        written={"ods.events": "{{ t }}", "s_prod.x": "s_{{ env }}.x"},
    )


MYBATIS = [
    ("select a, '}},{{' from t where id = ${id} -- 1", ["t"]),
    ("select a from t <where><if test='a != null and a &gt; 1'> and a = #{a}</if></where>", ["t"]),
    ("select * from t where x &lt; 5 and y in <foreach collection='l' item='i'>(#{i})</foreach>", ["t"]),
    ("<![CDATA[ select * from t where a < 5 ]]>", ["t"]),
    ('select "a" from "Ods"."T" where b = #{b}', ["ods.t"]),
]  # fmt: skip


@pytest.mark.parametrize(("sql", "tables"), MYBATIS)
def test_scripts_of_data_services_are_filled_in_their_own_way(sql: str, tables: list[str]) -> None:
    assert tables_of(sql, ("hive", "mysql", "postgres"), mybatis=True) == Used(tables=tuple(tables))


UNREAD = [
    ("postgres", "select from from", [], "not read as postgres: Expected table name but got its end in line 1"),
    ("postgres", "select\n1 from t where (a", [], "Expecting ) in line 2"),
    ("postgres", "select 'never closed from t", [], "a quote"),
    ("postgres", "select * from a {{ x", [], "a {{ is not closed"),
    ("postgres", "select * from a {{#x}} join b", [], "the section {{#x}} is not closed"),
    ("postgres", "select * from a {{/x}}", [], "the section {{/x}} was not opened"),
    ("postgres", "select * from a; vacuum b", ["a"], "a statement that is not read: VACUUM"),
    ("postgres", "select * from (table b) x, c", ["c"], "a statement that is not read: TABLE"),
    ("mysql", "show tables", [], "a statement that is not read: SHOW"),
    ("", "db.users.find({})", [], "an expression where a statement is due"),
    ("postgres", "{{#a}}select * from t{{/a}}{{^a}}select * from (((u{{/a}}", ["t"], "Expecting )"),
    ("postgres", "select " + "(" * 3000 + "1", [], "not read as postgres"),
]


@pytest.mark.parametrize(("dialect", "sql", "tables", "why"), UNREAD)
def test_what_cannot_be_read_is_told_beside_what_can(dialect: str, sql: str, tables: list[str], why: str) -> None:
    used = tables_of(sql, (dialect,))
    assert list(used.tables) == tables
    assert why in " ".join(used.problems)
    assert all("\n" not in problem and len(problem) <= 200 for problem in used.problems)


# -- end to end -------------------------------------------------------------------------------------


def edit(sandbox: SandboxProcess, vendor: str, table: str, key: Any, row: Row) -> None:
    sandbox.control(vendor, "POST", "edit", {"table": table, "op": "update", "key": key, "row": row})


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory, kept_database: Database) -> Iterator[tuple[Night, dict[str, int]]]:
    """A night of three vendors whose texts say what is tested here."""
    night = Night(home=tmp_path_factory.mktemp("find"), database=kept_database)
    with start_sandbox("--vendors", "tonalytica,dataworks,thinkingengine", "--scale", "0.02") as sandbox:
        ids = {row["name"]: row["id"] for row in truth(sandbox, "queries")}
        env = [{"name": "env", "type": "text", "value": "prod", "title": "", "global": False, "locals": []}]
        mongo = {"data_source_id": 3, "query": '{"collection": "users"}'}
        texts: dict[str, Row] = {
            "Every type": {"query": "with x as (select * from Ods.Orders) select * from x join Common c on true"},
            "Deep JSON": {
                "query": "select 1 from y_{{ env }}; insert into z select * from common",
                "options": {"parameters": env},
            },
            "On the paused source": {"query": f"select * from query_{ids['Every type']}"},
            "Decimals": {},
            "Timestamps of every kind": {"query": "select from where"},
            "日活跃钱包数（去重）": {"data_source_id": 4, "query": "select * from `钱包` final, common"},
            "Source is gone 0": {"query": "select * from orphaned"},
            "Archived 0": {"query": "select * from only_archived"},
            "Leading zeros": mongo,
        }
        edit(sandbox, "tonalytica", "data_sources", 3, {"type": "mongodb", "groups": {"2": True}})
        for name, row in texts.items():
            if row:
                edit(sandbox, "tonalytica", "queries", ids[name], row)
        script = {"Script": "select * from dw.${part}_t <where><if test='a'> and a = ${a}</if></where>"}
        services = [row for row in _rows(sandbox, "published_apis") if row.get("ProjectId") == 10002]
        for service in services[:1]:
            change = {"ApiMode": 1, "ScriptDetails": script, "WizardDetails": {}, "ApiName": "服务"}
            edit(sandbox, "dataworks", "published_apis", f"10002/{service['ApiId']}", change)
        for vendor, ready in sandbox.ready.items():
            settings = {name: told for name, told in ready.items() if isinstance(told, str) and name != "control_url"}
            night.set(vendor, **settings, requests_per_second=1000)
        night.set(exclude=["results"], probe_hidden=True)
        body = {"filter": {"filterType": "SIMPLE"}, "selectColumns": ["vip"]}
        night.set("thinkingengine", generated_sql=[{"name": "paid", "body": body}])
        queries = [
            {
                "name": "daily",
                "sql": 'select * from ta.v_event_{project_id} where "$part_date" between {start} and {end}',
                "window": {"start": "2026-01-01"},
                "cursor": "$part_date",
            }
        ]
        ran = night.run()
        assert ran.code == 0, ran.out
        # configured SQL is read from the configuration, loaded or not
        night.set("thinkingengine", queries=[*queries, {"name": "broken", "sql": "select {nothing}"}])
        yield night, ids | {"service": services[0]["ApiId"]}


def _rows(sandbox: SandboxProcess, table: str) -> list[Row]:
    return list(sandbox.control("dataworks", "GET", f"truth/{table}")["rows"])


def users_of(report: Row, table: str, **source: Any) -> list[tuple[str, Any]]:
    its = [row for row in report["tables"] if row["table"] == table and source.items() <= row["source"].items()]
    assert len(its) == 1, its
    return [(user["kind"], user["id"]) for user in its[0]["users"]]


def test_each_table_tells_who_uses_it(loaded: tuple[Night, dict[str, int]]) -> None:
    night, ids = loaded
    ran = night.main("find-tables", "--json")
    assert ran.code == 0, ran.err
    report = ran.json
    first = ids["Every type"]
    charts = [
        ("chart", key)
        for (key,) in night.rows("SELECT id FROM tonalytica.visualizations WHERE query_id = ? ORDER BY 1", first)
    ]
    boards = night.rows("SELECT DISTINCT dashboard_id FROM tonalytica.widgets WHERE query_id = ? ORDER BY 1", first)
    assert charts
    assert users_of(report, "ods.orders") == [("query", first), *charts, *(("dashboard", key) for (key,) in boards)]
    assert ("query", ids["Deep JSON"]) in users_of(report, "common", id=1)
    # the same name at another source is another table
    assert ("query", ids["日活跃钱包数（去重）"]) in users_of(report, "common", id=4)
    assert ("query", ids["日活跃钱包数（去重）"]) not in users_of(report, "common", id=1)
    assert users_of(report, "orphaned")[0] == ("query", ids["Source is gone 0"])
    assert users_of(report, "dw.{{ part }}_t", vendor="dataworks") == [("published api", f"10002/{ids['service']}")]
    assert users_of(report, "v_user_7", vendor="thinkingengine") == [("generated sql", "paid")]
    assert users_of(report, "ta.v_event_7", vendor="thinkingengine") == [("sql configuration", "daily")]
    assert not any(row["table"] == "x" for row in report["tables"])
    archived = next(row for row in report["tables"] if row["table"] == "only_archived")["users"][0]
    assert archived["archived"] is True
    assert report["not_loaded"] == []


def test_each_text_tells_its_tables_and_where_it_is(loaded: tuple[Night, dict[str, int]]) -> None:
    night, ids = loaded
    report = night.main("find-tables", "--json").json
    queries = {row["id"]: row for row in report["texts"] if row["kind"] == "query"}
    live = night.rows("SELECT count(*) FROM tonalytica.queries WHERE _deleted_at IS NULL")[0][0]
    assert len(queries) == live
    text = queries[ids["Deep JSON"]]
    assert text["tables"] == ["common", "y_prod", "z"]
    assert text["url"].endswith(f"/queries/{ids['Deep JSON']}") and text["source"]["type"] == "pg"
    user = next(row for row in report["tables"] if row["table"] == "y_prod")["users"][0]
    assert user["written"] == "y_{{ env }}"


def test_a_query_on_results_is_linked_to_the_query_it_reads(loaded: tuple[Night, dict[str, int]]) -> None:
    night, ids = loaded
    report = night.main("find-tables", "--json").json
    first = ids["Every type"]
    row = next(row for row in report["tables"] if row["table"] == f"query_{first}")
    assert row["query"] == {"kind": "query", "id": first, "name": "Every type", "url": row["query"]["url"]}
    text = next(row for row in report["texts"] if row["id"] == ids["On the paused source"])
    assert text["reads_queries"] == [first]
    assert f"  is the result of query {first} Every type  " in night.main("find-tables", f"query_{first}").out


def test_what_was_not_read_is_listed_whatever_was_asked_for(loaded: tuple[Night, dict[str, int]]) -> None:
    night, ids = loaded
    for patterns in ((), ("ods.orders",)):
        report = night.main("find-tables", *patterns, "--json").json
        unread = {(row["kind"], row["id"]): row["why"] for row in report["unread"]}
        assert "not read as postgres" in unread["query", ids["Timestamps of every kind"]]
        assert unread["query", ids["Leading zeros"]] == "mongodb does not speak SQL"
        assert "there is no {nothing}" in unread["sql configuration", "broken"]
        assert any(kind == "published api" for kind, _ in unread)
    told = night.main("find-tables", "ods.orders").out
    assert f"query {ids['Timestamps of every kind']}" in told and "could not be read, wholly or in part:" in told
    assert f"{len(report['unread'])} that" in told


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("orders", ["ods.orders"]),
        ("ODS.Orders", ["ods.orders"]),
        ("ods.*", ["ods.orders"]),
        ("ord?rs", ["ods.orders"]),
        ("order", []),
        ("钱包", ["钱包"]),
        ("no such", []),
    ],
)
def test_patterns_fit_a_whole_name_or_its_end(
    loaded: tuple[Night, dict[str, int]], pattern: str, found: list[str]
) -> None:
    report = loaded[0].main("find-tables", pattern, "--json").json
    assert [row["table"] for row in report["tables"]] == found
    if not found:
        assert loaded[0].main("find-tables", pattern).out.startswith("no such table is used\n")


def test_no_warehouse_and_nothing_with_sql_in_it_are_one_line_each(tmp_path: Path) -> None:
    night = Night(home=tmp_path)
    ran = night.main("find-tables")
    assert ran.code == 2 and "there is no warehouse" in ran.err and "nightload run" in ran.err
    import duckdb

    night.warehouse.parent.mkdir()
    duckdb.connect(str(night.warehouse)).close()
    ran = night.main("find-tables")
    assert ran.code == 2 and "holds nothing of tonalytica" in ran.err and len(ran.err.splitlines()) == 1
    night.warehouse.write_bytes(b"no database at all, but a text that is long enough to be looked at" * 100)
    ran = night.main("find-tables")
    assert ran.code == 1 and "cannot be opened" in ran.err and len(ran.err.splitlines()) == 1
