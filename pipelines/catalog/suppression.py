"""Who is kept out of every load: `nightload.forgotten` holds salted hashes and nothing else of them."""

from __future__ import annotations

import json
import secrets

from pipelines.catalog.system_tables import add_rows
from pipelines.config.project import OWN_DATASET, Place
from pipelines.warehouse.base import Session
from pipelines.warehouse.open import open_reader
from pipelines.warehouse.reader import Reader
from sources.core.sql import quote
from sources.privacy.matching import Forgotten, Known, normal, phrase, salted

TABLE = "forgotten"
COLUMNS = {
    "forget_id": "TEXT",
    "forgotten_at": "TIMESTAMP",
    "salt": "TEXT",
    "cell_hash": "TEXT",
    "phrase_hash": "TEXT",
    "words": "BIGINT",
    "columns": "TEXT",
}


def read_forgotten(place: Place) -> Forgotten:
    """Whom the published warehouse says to keep out; nobody, if there is no warehouse yet."""
    if place.postgres is None and not place.warehouse.exists():
        return Forgotten()
    with open_reader(place) as reader:
        return forgotten_in(reader)


def forgotten_in(database: Reader | Session) -> Forgotten:
    if TABLE not in database.tables(OWN_DATASET):
        return Forgotten()
    rows = database.query(f"SELECT salt, cell_hash, phrase_hash, words, columns FROM {quote(OWN_DATASET, TABLE)}")  # noqa: S608
    if not rows:
        return Forgotten()
    entries = (
        Known(cell=cell, phrase=words, size=int(size), columns=tuple(json.loads(columns or "[]")))
        for _, cell, words, size, columns in rows
    )
    return Forgotten(salt=rows[0][0], entries=tuple(dict.fromkeys(entries)))


def keep_out(session: Session, values: list[str], *, columns: list[str], forget_id: str, at: str) -> None:
    """From now on, keep these values out of every load. One salt for all: a value is hashed once, not once a person."""
    known = forgotten_in(session)
    salt = known.salt or secrets.token_hex(16)
    fresh = {(salted(salt, normal(value)), salted(salt, phrase(value)), len(phrase(value).split())) for value in values}
    there = {(each.cell, each.phrase, each.size) for each in known.entries if list(each.columns) == columns}
    rows = [
        {
            "forget_id": forget_id,
            "forgotten_at": at,
            "salt": salt,
            "cell_hash": cell,
            "phrase_hash": words,
            "words": size,
            "columns": json.dumps(columns, ensure_ascii=False),
        }
        for cell, words, size in sorted(fresh - there)
    ]
    add_rows(session, TABLE, COLUMNS, rows)
