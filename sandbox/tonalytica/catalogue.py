"""The reading endpoints besides results: session, lists, single objects (sections 3, 4 and 7)."""

from __future__ import annotations

from urllib.parse import urlencode

from sandbox.tonalytica import lists, shapes
from sandbox.tonalytica.call import Call, Reply, Shared, reply
from sandbox.tonalytica.records import Dashboard, Query
from sandbox.tonalytica.refusal import FORBIDDEN, Refusal, not_found, server_error
from sandbox.tonalytica.settings import client_config
from sandbox.tonalytica.world import VERSIONS

ADMIN_PERMISSIONS = [
    "admin", "super_admin", "create_dashboard", "create_query", "edit_dashboard", "edit_query", "view_query",
    "view_source", "execute_query", "list_users", "schedule_query", "list_dashboards",
    "list_alerts", "list_data_sources",
]  # fmt: skip


def session(call: Call) -> Reply:
    user = call.user
    card = shapes.user_card(user)
    permissions = ADMIN_PERMISSIONS if user.is_admin else ADMIN_PERMISSIONS[2:]
    return reply(
        {
            "user": {**card, "groups": user.groups, "permissions": permissions},
            "messages": [],
            "org_slug": "default",
            "client_config": client_config(VERSIONS[call.world.version], f"{call.origin}/"),
        }
    )


def status(call: Call) -> Reply:
    """Counts what exists, archived included: a measure of what lists leave out."""
    if not call.user.is_admin:
        return Reply(b"<!doctype html><title>403 Forbidden</title>", 403, content_type="text/html; charset=utf-8")
    world = call.world
    pointed = {query.latest_query_data_id for query in world.queries.values()}
    return reply(
        {
            "dashboards_count": len(world.dashboards),
            "database_metrics": {"metrics": [["Query Results Size", 34267136], ["Redash DB Size", 44612967]]},
            "manager": {"queues": {name: {"size": 0} for name in ("default", "queries", "schemas")}},
            "queries_count": len(world.queries),
            "query_results_count": len(world.results),
            "redis_used_memory": 7033688,
            "redis_used_memory_human": "6.71M",
            "unused_query_results_count": sum(key not in pointed for key in world.results),
            "version": VERSIONS[world.version],
            "widgets_count": len(world.widgets),
            "workers": [],
        }
    )


# Queries


def _query_page(call: Call, rows: list[Query]) -> Reply:
    rows = lists.tagged(rows, call.args.getlist("tags"))
    q = call.args.get("q")
    if q:
        rows = lists.searched(rows, q)
    if not q or call.args.get("order"):
        rows = lists.ordered(call.world, call.args, rows, lists.query_orders(call.world), ties_move=True)
    call.world.record(call.user, "list", "query", None)
    return reply(lists.paginate(call.args, rows, lambda row: shapes.query_listed(call.world, row)))


def queries(call: Call) -> Reply:
    """Everybody's drafts are in, archived queries are not, nor those whose source is gone or not of one's groups."""
    return _query_page(call, call.world.listed_queries(call.user))


def queries_archive(call: Call) -> Reply:
    return _query_page(call, call.world.archived_queries(call.user))


def queries_my(call: Call) -> Reply:
    user = call.user
    return _query_page(call, [q for q in call.world.queries.values() if q.user_id == user.id and not q.is_archived])


def queries_favorites(call: Call) -> Reply:
    return _query_page(call, [q for q in call.world.listed_queries(call.user) if q.starred_at is not None])


def queries_recent(call: Call) -> Reply:
    rows = [q for q in call.world.listed_queries(call.user) if q.user_id == call.user.id and not q.is_draft]
    rows.sort(key=lambda q: (q.updated_at, q.id), reverse=True)
    return reply([shapes.query_listed(call.world, q, with_user=False) for q in rows[:10]])


def queries_tags(call: Call) -> Reply:
    return reply(lists.tag_counts(call.world.listed_queries(call.user)))


def queries_search(call: Call) -> Reply:
    _ = call.user
    location = f"{call.origin}/api/queries?{urlencode(call.args.multi_items())}"
    return Reply(b"", 301, {"Location": location}, "text/html; charset=utf-8")


def query(call: Call) -> Reply:
    found = call.query()
    user = None if isinstance(call.asker, Shared) else call.user
    if user is not None:
        call.world.record(user, "view", "query", found.id)
    return reply(shapes.query_single(call.world, found, user))


# Dashboards


def _dashboard_page(call: Call, rows: list[Dashboard]) -> Reply:
    rows = lists.tagged(rows, call.args.getlist("tags"))
    q = call.args.get("q")
    if q:
        rows = [row for row in rows if q.lower() in row.name.lower()]
    rows = lists.ordered(call.world, call.args, rows, lists.DASHBOARD_ORDERS)
    call.world.record(call.user, "list", "dashboard", None)
    return reply(lists.paginate(call.args, rows, lambda row: shapes.dashboard_listed(call.world, row)))


def dashboards(call: Call) -> Reply:
    return _dashboard_page(call, call.world.listed_dashboards(call.user))


def dashboards_my(call: Call) -> Reply:
    user = call.user
    if call.world.version == "v9":
        raise not_found()
    return _dashboard_page(
        call, [d for d in call.world.dashboards.values() if d.user_id == user.id and not d.is_archived]
    )


def dashboards_favorites(call: Call) -> Reply:
    return _dashboard_page(call, [d for d in call.world.listed_dashboards(call.user) if d.starred_at is not None])


def dashboards_tags(call: Call) -> Reply:
    return reply(lists.tag_counts(call.world.listed_dashboards(call.user)))


def dashboard(call: Call) -> Reply:
    """By id; by the stored slug with `?legacy`, and on the oldest version by that slug only (section 1)."""
    user, asked = call.user, call.path["dashboard_id"]
    if call.world.version == "v9" or "legacy" in call.args:
        found = next((d for d in call.world.dashboards.values() if d.stored_slug == asked), None)
    elif not asked.isascii() or not asked.isdigit():
        # Not noted as unexpected: probing by slug after the id is what the sheet advises.
        raise server_error()
    else:
        found = call.world.dashboards.get(call.number("dashboard_id"))
    if found is None:
        raise not_found()
    call.world.record(user, "view", "dashboard", found.id)
    return reply(shapes.dashboard_single(call.world, found, user, call.origin))


def dashboard_public(call: Call) -> Reply:
    found = next((d for d in call.world.dashboards.values() if d.public_token == call.path["token"]), None)
    if found is None:
        raise not_found()
    return reply(shapes.dashboard_public(call.world, found))


# Everything else


def data_sources(call: Call) -> Reply:
    user = call.user
    rows = [s for s in call.world.data_sources.values() if call.world.may_see(user, s.id)]
    rows.sort(key=lambda s: s.name.lower())
    return reply([shapes.data_source_listed(s, user) for s in rows])


def data_source(call: Call) -> Reply:
    user, found = call.user, call.data_source()
    shape = shapes.data_source_single if user.is_admin else shapes.data_source_listed
    return reply(shape(found, user))


def data_source_schema(call: Call) -> Reply:
    _, found = call.user, call.data_source()
    if found.schema is None:
        return reply(shapes.job(call.world.enqueue_schema(found)))
    return reply({"schema": found.schema})


def users(call: Call) -> Reply:
    """Enabled users; `disabled=true` lists the others, and the two do not overlap."""
    _ = call.user
    disabled = call.args.get("disabled", "false").lower() == "true"
    rows = [u for u in call.world.users.values() if (u.disabled_at is not None) == disabled]
    pending = call.args.get("pending")
    if pending is not None:
        rows = [u for u in rows if u.is_invitation_pending == (pending.lower() == "true")]
    rows = lists.ordered(call.world, call.args, rows, lists.USER_ORDERS)
    return reply(lists.paginate(call.args, rows, lambda row: shapes.user_listed(call.world, row)))


def user(call: Call) -> Reply:
    """An admin sees everybody's api_key."""
    asker, found = call.user, call.world.users.get(call.number("user_id"))
    if found is None:
        raise not_found()
    shape = shapes.user_nested(found)
    if asker.is_admin or asker.id == found.id:
        shape["api_key"] = found.api_key
    return reply(shape)


def alerts(call: Call) -> Reply:
    user = call.user
    rows = [
        a
        for a in call.world.alerts.values()
        if call.world.in_groups(user, call.world.queries[a.query_id].data_source_id)
    ]
    call.world.record(user, "list", "alert", None)
    return reply([shapes.alert(call.world, row) for row in rows])


def alert(call: Call) -> Reply:
    _, found = call.user, call.world.alerts.get(call.number("alert_id"))
    if found is None:
        raise not_found()
    return reply(shapes.alert(call.world, found))


def query_snippets(call: Call) -> Reply:
    _ = call.user
    return reply([shapes.snippet(call.world, row) for row in call.world.snippets.values()])


def query_snippet(call: Call) -> Reply:
    _, found = call.user, call.world.snippets.get(call.number("snippet_id"))
    if found is None:
        raise not_found()
    return reply(shapes.snippet(call.world, found))


def groups(call: Call) -> Reply:
    user = call.user
    return reply(
        [
            {
                "id": key,
                "name": name,
                "permissions": ADMIN_PERMISSIONS[:2] if key == 1 else ADMIN_PERMISSIONS[2:],
                "type": "builtin" if key <= 2 else "regular",
                "created_at": "2024-01-01T00:00:00Z",
            }
            for key, name in call.world.groups.items()
            if user.is_admin or key in user.groups
        ]
    )


def destinations(call: Call) -> Reply:
    call.need_admin()
    return reply([{"id": 1, "name": "mail 邮件", "type": "email", "icon": "fa-envelope"}])


def events(call: Call) -> Reply:
    if not call.user.is_admin:
        raise Refusal(403, {"message": FORBIDDEN})
    return reply(lists.paginate(call.args, call.world.events[::-1], lambda row: row))
