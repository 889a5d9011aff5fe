"""Which columns of a table are hashed or dropped on their way, and whether older rows were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlt.common.schema.typing import TColumnSchema

from sources import naming
from sources.convert.parquet import Converted
from sources.convert.types import Column
from sources.core.errors import ConfigurationError
from sources.extract.dlt_hints import columns_of, version_of
from sources.extract.sync import Outcome, Walk
from sources.extract.table import Mode, Table
from sources.privacy import policy
from sources.privacy.masking import Screened, screen
from sources.privacy.matching import Forgotten
from sources.privacy.pii_columns import objects_of
from sources.privacy.policy import Policy


@dataclass(frozen=True, kw_only=True)
class Protection:
    """What the configuration and the forgotten people ask for, applied to one walk's rows."""

    policy: Policy
    forgotten: Forgotten

    def policies(self, dataset: str, table: Table, walk: Walk, columns: Sequence[Column]) -> dict[str, str]:
        """Column → `hash` or `drop`. Raises `ConfigurationError` for what the table cannot do without."""
        name = naming.identifier_for(table.name)
        both = (*columns, *walk.stored)
        known = {each for column in both for each in (column.label, column.name, *objects_of(column.label))}
        if columns:
            self.policy.refuse_unknown(dataset, name, known | set(table.dropped))
        found = self.policy.of(dataset, name, [column for column in columns if column.label not in walk.decided])
        told_by_fetch = {column.name: walk.decided.get(column.label, policy.KEEP) for column in columns}
        found |= {column: told for column, told in told_by_fetch.items() if told != policy.KEEP}
        for column in columns:
            told = found.get(column.name)
            steering = column.label in (table.cursor, table.scope) or column.name == table.scope
            by_name = self.policy.named(dataset, name, column.label, column.name)
            if told and steering and by_name:
                raise _cannot(dataset, name, column, told, "what is loaded next is told by it")
            if told == policy.DROP and column.label in table.key:
                if by_name:
                    raise _cannot(dataset, name, column, told, "rows are told apart by it; it can be hashed")
                found[column.name] = policy.HASH if self.policy.prefix else policy.KEEP
                if not self.policy.prefix:
                    raise _cannot(dataset, name, column, told, "rows are told apart by it; with a salt it is hashed")
            elif told and steering:
                found.pop(column.name)
        return found

    def prefixes(self, walk: Walk, columns: Sequence[Column]) -> dict[str, str]:
        """What goes before a value into its hash, column by column."""
        return {column.name: walk.prefix if column.label in walk.decided else self.policy.prefix for column in columns}

    def screened(
        self,
        walk: Walk,
        converted: Converted,
        outcome: Outcome,
        stored: Mapping[str, TColumnSchema],
        *,
        key: Sequence[str],
    ) -> Screened:
        """The rows as they may land; the state says how their columns are protected."""
        policies = self.policies(outcome.dataset, walk.table, walk, converted.columns)
        for column in converted.columns:
            was = stored.get(column.name, {}).get("data_type")
            if (
                policies.get(column.name) == policy.HASH
                and was not in (None, "text")
                and walk.table.mode != Mode.LATEST
            ):
                raise ConfigurationError(
                    what=f"column {column.label} of {outcome.dataset}.{outcome.table} is to be hashed and is {was}",
                    todo="Build the table anew (deleted rows and old versions, which only it has, are given up): "
                    f"nightload run --full --table {outcome.dataset}.{outcome.table}",
                )
        landing = [column for column in converted.columns if policies.get(column.name) != policy.DROP]
        screened = screen(
            converted,
            dataset=outcome.dataset,
            table=outcome.table,
            policies=policies,
            prefixes=self.prefixes(walk, converted.columns),
            forgotten=self.forgotten,
            key=key,
            scope=walk.table.scope,
            version=version_of(landing) if walk.table.mode == Mode.HISTORY else None,
        )
        fresh = not stored or walk.table.mode == Mode.LATEST or walk.anew
        protected = {} if fresh else dict(walk.state.get("protected", {}))
        decided = [column for column in converted.columns if column.label in walk.decided]
        settled = self._told(outcome.dataset, walk.table, decided)
        news = {name: told for name, told in self._marks(policies).items() if fresh or name not in stored}
        walk.state["protected"] = protected | news | settled
        if not walk.state["protected"]:
            del walk.state["protected"]
        if screened.blanked:
            outcome.notes.append(f"{screened.blanked} values of forgotten people were blanked")
        return screened

    def exposed(
        self, dataset: str, table: Table, state: dict[str, Any], stored: Mapping[str, TColumnSchema]
    ) -> list[str]:
        """Labels of columns that are to be hashed or dropped, and that older rows may hold as they came."""
        columns = columns_of(stored)
        now = self._told(dataset, table, columns)
        before: Mapping[str, str] = state.get("protected", {})
        steering = {table.cursor, table.scope}
        exposed = {
            column.label
            for column in columns
            if column.name in now
            and now[column.name] != before.get(column.name)
            and not {column.label, column.name} & steering
        }
        return sorted(exposed)

    def _told(self, dataset: str, table: Table, columns: Sequence[Column]) -> dict[str, str]:
        return self._marks(self.policy.of(dataset, naming.identifier_for(table.name), columns))

    def _marks(self, policies: Mapping[str, str]) -> dict[str, str]:
        """What the state says of a protected column: under another salt, a hash is another one."""
        return {
            name: f"{each}:{self.policy.fingerprint}" if each == policy.HASH else each
            for name, each in policies.items()
        }


def _cannot(dataset: str, table: str, column: Column, told: str, why: str) -> ConfigurationError:
    what = f"column {column.label} of {dataset}.{table} cannot be {'hashed' if told == policy.HASH else 'dropped'}"
    return ConfigurationError(
        what=what, why=why, todo=f'Write "{dataset}.{table}.{column.label}" = "keep" under [personal]'
    )
