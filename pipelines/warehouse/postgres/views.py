"""What hangs on a table of a Postgres while the table is made anew: views upon views, and who may read them.

A view holds on to its table, not to the table's name: dropping the table is refused, and a renamed
table takes the view along. So the views are taken down and put up again, in the same transaction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import psycopg2

from pipelines.warehouse.base import Session
from sources.core.errors import WarehouseRefused
from sources.core.sql import quote

DEPENDENT = """
WITH RECURSIVE hanging (oid, depth) AS (
    SELECT ?::regclass::oid, 0
  UNION
    SELECT r.ev_class, h.depth + 1
    FROM hanging h
    JOIN pg_depend d ON d.refobjid = h.oid
     AND d.refclassid = 'pg_class'::regclass AND d.classid = 'pg_rewrite'::regclass
    JOIN pg_rewrite r ON r.oid = d.objid AND r.ev_class <> h.oid
)
SELECT c.oid::bigint, max(h.depth), c.relkind::text, n.nspname, c.relname, pg_get_viewdef(c.oid),
       pg_get_userbyid(c.relowner), pg_has_role(c.relowner, 'USAGE'), array_to_string(c.reloptions, ', ')
FROM hanging h JOIN pg_class c ON c.oid = h.oid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE h.depth > 0
GROUP BY c.oid, c.relkind, n.nspname, c.relname, c.relowner, c.reloptions
ORDER BY max(h.depth)
"""
_GRANTS = """
SELECT privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END, is_grantable
FROM pg_class, aclexplode(relacl) WHERE oid = ?::bigint::oid AND grantee <> relowner
"""


@dataclass(kw_only=True)
class _Hanging:
    """A view, or a materialized one, and the statements that make it again."""

    name: str
    kind: str
    again: list[str] = field(default_factory=list)


@contextmanager
def kept(session: Session, tables: Sequence[tuple[str, str]]) -> Iterator[None]:
    """Take down the views on these tables, and put them up again at the end; what grants the tables had, too.

    Raises `WarehouseRefused` if a view is another role's, or if the new table does not bear it.
    """
    there = [(dataset, table) for dataset, table in tables if table in session.tables(dataset)]
    grants = {name: _grants(session, _oid(session, *name), quote(*name)) for name in there}
    views: dict[str, _Hanging] = {}
    for name in there:
        for row in session.query(DEPENDENT, [quote(*name)]):
            view = _hanging(session, row)
            views.pop(view.name, None)  # met again, deeper down
            views[view.name] = view
    for view in reversed(views.values()):
        session.change(f"DROP {view.kind} {view.name}")
    yield
    for name, statements in grants.items():
        if name[1] in session.tables(name[0]):
            for statement in statements:
                session.change(statement)
    for view in views.values():
        try:
            for statement in view.again:
                session.change(statement)
        except psycopg2.Error as error:
            raise WarehouseRefused(
                what=f"the view {view.name} cannot stand on the new table",
                why=str(error).splitlines()[0],
                todo="Nothing was changed. Drop the view, run again, and make it anew",
            ) from None


def _hanging(session: Session, row: tuple[object, ...]) -> _Hanging:
    oid, _, relkind, schema, relation, definition, owner, ours, options = row
    name = quote(str(schema), str(relation))
    if not ours:
        raise WarehouseRefused(
            what=f"the view {name} hangs on a table that must be made anew",
            why=f"it belongs to {owner}, so it cannot be taken down and put up again",
            todo=f"Nothing was changed. Let nightload do it (GRANT {owner} TO its role), or drop the view",
        )
    kind = "MATERIALIZED VIEW" if relkind == "m" else "VIEW"
    told = f" WITH ({options})" if options else ""
    again = [f"CREATE {kind} {name}{told} AS {str(definition).rstrip().rstrip(';')}"]
    if relkind == "m":
        again += [
            index
            for (index,) in session.query(
                "SELECT indexdef FROM pg_indexes WHERE schemaname = ? AND tablename = ?", [schema, relation]
            )
        ]
    if comment := session.query("SELECT obj_description(?::bigint::oid, 'pg_class')", [oid])[0][0]:
        again.append(f"COMMENT ON {kind} {name} IS {_text(comment)}")
    again += _grants(session, int(str(oid)), name)
    again.append(f"ALTER {kind} {name} OWNER TO {quote(str(owner))}")
    return _Hanging(name=name, kind=kind, again=again)


def _oid(session: Session, dataset: str, table: str) -> int:
    ((oid,),) = session.query("SELECT ?::regclass::oid::bigint", [quote(dataset, table)])
    return int(oid)


def _grants(session: Session, oid: int, name: str) -> list[str]:
    return [
        f"GRANT {right} ON {name} TO {to}{' WITH GRANT OPTION' if grantable else ''}"
        for right, to, grantable in session.query(_GRANTS, [oid])
    ]


def _text(text: str) -> str:
    return "E'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
