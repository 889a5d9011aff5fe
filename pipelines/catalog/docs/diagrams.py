"""How the tables hang together: Mermaid for people, DBML for tools."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Protocol

from pipelines.catalog.docs.relations import Relation, is_history, key_of
from pipelines.catalog.introspect import ColumnThere


class Drawn(Protocol):
    """A table as the diagrams need it."""

    @property
    def dataset(self) -> str: ...

    @property
    def name(self) -> str: ...

    @property
    def about(self) -> str | None: ...

    @property
    def columns(self) -> Sequence[ColumnThere]: ...


def mermaid(tables: Sequence[Drawn], related: Sequence[Relation]) -> str:
    """The tables that point to each other, with the columns by which they do."""
    used: dict[tuple[str, str], set[str]] = defaultdict(set)
    for relation in related:
        used[relation.dataset, relation.table].update(relation.columns)
        used[relation.dataset, relation.parent].update(relation.parent_columns)
    lines = ["erDiagram"]
    for table in tables:
        names = used.get((table.dataset, table.name))
        if names is None:
            continue
        key = () if is_history(table.columns) else key_of(table.columns)
        lines.append(f'    "{_plain(f"{table.dataset}.{table.name}")}" {{')
        for column in table.columns:
            if column.name in names or column.name in key:
                mark = " PK" if column.name in key else ""
                lines.append(f"        {_word(column.type)} {_word(column.name)}{mark}")
        lines.append("    }")
    for relation in related:
        parent, child = (_plain(f"{relation.dataset}.{name}") for name in (relation.parent, relation.table))
        lines.append(f'    "{parent}" |o--o{{ "{child}" : "{_plain(", ".join(relation.columns))}"')
    return "\n".join(lines) + "\n"


def dbml(tables: Sequence[Drawn], related: Sequence[Relation]) -> str:
    """All tables with all columns, for tools that read DBML."""
    lines: list[str] = []
    for table in tables:
        key = () if is_history(table.columns) else key_of(table.columns)
        lines.append(f"Table {_dbml_name(table.dataset, table.name)} {{")
        for column in table.columns:
            settings = ["pk"] if key == (column.name,) else []
            if column.label not in (None, column.name):
                settings.append(f"note: {_dbml_text(str(column.label))}")
            told = f" [{', '.join(settings)}]" if settings else ""
            lines.append(f"  {_dbml_name(column.name)} {_dbml_name(column.type)}{told}")
        if len(key) > 1:
            lines.append(f"  indexes {{\n    ({', '.join(map(_dbml_name, key))}) [pk]\n  }}")
        if table.about:
            lines.append(f"  Note: {_dbml_text(table.about)}")
        lines.append("}\n")
    for relation in related:
        ends = (
            (relation.table, relation.columns),
            (relation.parent, relation.parent_columns),
        )
        child, parent = (
            f"{_dbml_name(relation.dataset, name)}."
            + (_dbml_name(*columns) if len(columns) == 1 else f"({', '.join(map(_dbml_name, columns))})")
            for name, columns in ends
        )
        lines.append(f"Ref: {child} > {parent}")
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """Inside Mermaid's quotes, which know no escape."""
    return "".join(sign if sign.isprintable() and sign not in '"%\\' else "_" for sign in text)


def _word(text: str) -> str:
    """A type or a name in Mermaid: it begins with a letter and has no blank."""
    word = "".join(sign if sign.isalnum() or sign in "_-" else "_" for sign in text)
    return word if word[:1].isalpha() else f"x{word}"


def _dbml_name(*names: str) -> str:
    return ".".join('"' + _plain(name) + '"' for name in names)


def _dbml_text(text: str) -> str:
    told = "".join(sign if sign.isprintable() else " " for sign in text)
    return "'" + told.replace("\\", "\\\\").replace("'", "\\'") + "'"
