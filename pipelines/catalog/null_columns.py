"""Columns that go dark: they had values, and none of the rows that come has one any more.

A whole walk brings every row, so one without a value in any of them is dark at once. Where only some rows come, or the
vendor's newest answer is the table, rows without a value are added up until some would be sure to have one. What is
known of each column stands in `nightload.column_values` and moves with the rows; the changes are rows of
`nightload.schema_changes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pipelines.catalog.system_tables import replace_rows
from pipelines.config.project import OWN_DATASET
from pipelines.warehouse.base import Session
from sources.core.sql import literal, quote
from sources.extract.sync import Outcome
from sources.extract.table import Mode

DARK, LIT, GONE = "dark", "values again", "dropped column"
"""What `nightload.schema_changes` calls them; a column is dropped where its table was made anew without it."""
SURE = 20
"""So many values must be missing: if rows have them independently, chance does it once in 500 million times."""

COLUMN_VALUES = {
    "dataset": "TEXT",
    "table_name": "TEXT",
    "column_name": "TEXT",
    "came": "BIGINT",
    "filled": "BIGINT",
    "bare": "BIGINT",
    "dark_since": "TIMESTAMP",
}


@dataclass(frozen=True, kw_only=True)
class Values:
    """What is known of a column: of the `came` rows of late `filled` had a value, and of `bare` after them none.

    Of partial loads, earlier rows count half as much each time; `dark_since` is when it was told to be dark.
    """

    came: int
    filled: int
    bare: int = 0
    dark_since: datetime | None = None

    def then(self, came: int, filled: int, *, mode: Mode, whole: bool, at: datetime) -> Values:
        """After a load of `came` rows, `filled` of which have a value."""
        if not came or (whole and filled and self.dark_since and mode == Mode.INCREMENTAL):
            return self  # such a walk also brings the rows from before it went dark
        if not self.filled:
            return Values(came=came, filled=filled)  # what never had a value is no news
        if filled:
            of_late = (0, 0) if whole else (self.came // 2, self.filled // 2)
            return Values(came=came + of_late[0], filled=filled + of_late[1])
        bare = self.bare + came
        sure = whole or bare * self.filled >= SURE * self.came
        return replace(self, bare=bare, dark_since=self.dark_since or (at if sure else None))


def record_values(
    session: Session, columns: Sequence[Mapping[str, Any]], outcomes: Sequence[Outcome], *, dataset: str, at: datetime
) -> list[dict[str, Any]]:
    """Note which columns of the tables that were loaded have values, and return what changed, as rows of
    `nightload.schema_changes` without run. `columns` are those of the dataset that came from the vendor."""
    loaded = {outcome.table: outcome for outcome in outcomes if outcome.loaded and outcome.came}
    if not loaded:
        return []
    before = _known(session, dataset)
    changes, rows = [], []
    for column in columns:
        name = (column["table_name"], column["column_name"])
        outcome, was = loaded.get(name[0]), before.pop(name, None)
        if outcome is None:
            continue
        filled = outcome.filled.get(name[1], 0)  # a column that did not come has no value
        now = was
        if filled is not None:
            whole = outcome.complete and outcome.missed is None and outcome.mode != Mode.LATEST
            now = (was or Values(came=0, filled=0)).then(outcome.came, filled, mode=outcome.mode, whole=whole, at=at)
        if now is not None:
            rows.append({"dataset": dataset, "table_name": name[0], "column_name": name[1], **_row(now)})
        is_dark, was_dark = (each is not None and each.dark_since is not None for each in (now, was))
        if is_dark != was_dark:
            changes.append(_change(dataset, *name, DARK if is_dark else LIT))
    gone = {name: was for name, was in before.items() if name[0] in loaded}
    changes += [_change(dataset, *name, GONE) for name, was in gone.items() if was.dark_since]
    tables = ", ".join(map(literal, sorted(loaded)))
    where = f"dataset = '{dataset}' AND table_name IN ({tables})"
    replace_rows(session, "column_values", COLUMN_VALUES, rows, where=where)
    return changes


def _known(session: Session, dataset: str) -> dict[tuple[str, str], Values]:
    if "column_values" not in session.tables(OWN_DATASET):
        return {}
    names = "table_name, column_name, came, filled, bare, dark_since"
    told = session.query(
        f"SELECT {names} FROM {quote(OWN_DATASET, 'column_values')} WHERE dataset = ?",  # noqa: S608
        [dataset],
    )
    return {
        (table, column): Values(came=came, filled=filled, bare=bare, dark_since=since)
        for table, column, came, filled, bare, since in told
    }


def _row(values: Values) -> dict[str, Any]:
    since = values.dark_since
    told = None if since is None else since.astimezone(UTC).isoformat()
    return {"came": values.came, "filled": values.filled, "bare": values.bare, "dark_since": told}


def _change(dataset: str, table: str, column: str, change: str) -> dict[str, Any]:
    return {"dataset": dataset, "table_name": table, "column_name": column, "change": change}
