"""What the sandbox's Redash holds, as rows of the tables that nightload promises."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import duckdb

from conftest import Night
from reference import differences, truth
from sandbox_process import SandboxProcess

Row = dict[str, Any]

LABELS = {
    "queries": (
        "id name description query query_hash schedule options tags is_archived is_draft is_safe is_favorite "
        "data_source_id version user_id last_modified_by_id latest_query_data_id runtime retrieved_at created_at "
        "updated_at found_in"
    ),
    "query_versions": "query_id data_source_id query_hash query",
    "visualizations": "id query_id type name description options created_at updated_at",
    "dashboards": (
        "id slug name user_id layout options tags dashboard_filters_enabled is_archived is_draft is_favorite version "
        "created_at updated_at found_in"
    ),
    "widgets": (
        "id dashboard_id visualization_id query_id width text options restricted created_at updated_at"
    ),
    "data_sources": "id name type syntax pause_reason paused supports_auto_limit view_only",
    "users": (
        "id name email auth_type groups is_disabled is_invitation_pending is_email_verified active_at disabled_at "
        "created_at updated_at"
    ),
    "alerts": "id name state options rearm query_id user_id last_triggered_at created_at updated_at",
    "query_snippets": "id trigger description snippet user_id created_at updated_at",
    "query_results": (
        "query_id result_id parameters retrieved_at runtime row_count data_source_id columns query_hash table_name"
    ),
}  # fmt: skip


def assert_warehouse_is_the_truth(
    night: Night,
    sandbox: SandboxProcess,
    *,
    places: Collection[str] = ("list", "archive"),
    results: Callable[[Row], bool] = lambda query: True,
    tables: Collection[str] = tuple(LABELS),
) -> int:
    """Every table, value by value; returns how many were compared."""
    rows = expected_rows(sandbox, places=places, results=results)
    wrong: list[str] = []
    with duckdb.connect(str(night.warehouse), read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for table in tables:
            live = {"query_versions": "valid_to IS NULL", "query_results": "true"}.get(table, "_deleted_at IS NULL")
            expect = rows[table]
            if table == "query_results":
                # older results stay in the list of what was loaded
                newest = max((row["result_id"] for row in expect), default=0)
                ids = ", ".join(f"({row['query_id']}, {row['result_id']})" for row in expect)
                live = f"(query_id, result_id) IN ({ids or '(0, 0)'}) OR result_id > {newest}"
            wrong += differences(connection, "tonalytica", table, expect, labels=LABELS[table].split(), where=live)
        compared = 0
        for card in rows["query_results"]:
            table, (labels, data) = f"query_{card['query_id']}", result_of(sandbox, card)
            columns = connection.table(f'tonalytica_results."{table}"').columns
            newest_of_kept = f"_result_id = {card['id']}" if "_result_id" in columns else "true"
            wrong += differences(connection, "tonalytica_results", table, data, labels=labels, where=newest_of_kept)
            compared += 1
    assert not wrong, "\n".join(wrong[:10])
    return len(tables) + compared


def result_of(sandbox: SandboxProcess, card: Row) -> tuple[list[str], list[Row]]:
    """All labels of one result, those that only rows have too, and its rows."""
    rows = truth(sandbox, f"results/{card['id']}")
    named = [column["name"] for column in card["columns"]]
    return list(dict.fromkeys([*named, *(label for row in rows for label in row)])), rows


def expected_rows(
    sandbox: SandboxProcess, *, places: Collection[str], results: Callable[[Row], bool]
) -> dict[str, list[Row]]:
    # runtime and retrieved_at are told by lists only
    untold = {"runtime": None, "retrieved_at": None}
    queries = [
        row | {"user_id": row["user"]["id"], "found_in": row["_where"]} | (untold if row["_where"] == "hidden" else {})
        for row in truth(sandbox, "queries")
        if row["_where"] in places
    ]
    seen = {row["id"] for row in queries}
    dashboards = [row | {"found_in": row["_where"]} for row in truth(sandbox, "dashboards") if row["_where"] in places]
    boards = {row["id"] for row in dashboards}
    cards = {row["id"]: row for row in truth(sandbox, "query_results")}
    return {
        "queries": queries,
        "query_versions": [row | {"query_id": row["id"]} for row in queries],
        "visualizations": [
            row | {"query_id": row["_query_id"]} for row in truth(sandbox, "visualizations") if row["_query_id"] in seen
        ],
        "dashboards": dashboards,
        "widgets": [_widget(row) for row in truth(sandbox, "widgets") if row["dashboard_id"] in boards],
        "data_sources": [row | {"paused": bool(row["paused"])} for row in truth(sandbox, "data_sources")],
        "users": truth(sandbox, "users"),
        "alerts": [_owned(row) for row in truth(sandbox, "alerts") if row["query"]["id"] in seen],
        "query_snippets": [_owned(row) for row in truth(sandbox, "query_snippets")],
        "query_results": [
            card
            | {
                "query_id": row["id"],
                "result_id": card["id"],
                "parameters": "",
                "table_name": f"query_{row['id']}",
            }
            for row in queries
            if row["latest_query_data_id"] is not None and results(row)
            for card in [cards[row["latest_query_data_id"]]]
            if card["columns"]
        ],
    }


def _owned(row: Row) -> Row:
    return row | {"user_id": row["user"]["id"], "query_id": row.get("query", {}).get("id")}


def _widget(row: Row) -> Row:
    visualization = row.get("visualization") or {}
    return row | {
        "visualization_id": visualization.get("id"),
        "query_id": visualization.get("query", {}).get("id"),
        "restricted": row.get("restricted", False),
    }
