"""What keeps a night of many small tables small, on the disk and in memory."""

from __future__ import annotations

from pathlib import Path

from pipelines import place as places
from pipelines.ledger import Ledger
from pipelines.warehouse.duckdb_file import DuckDbFile


def test_small_tables_share_a_file_of_small_blocks_also_when_it_was_written_anew(tmp_path: Path) -> None:
    place = places.find(tmp_path)
    place.ledger.parent.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(place.ledger)
    for purge in (False, True):
        warehouse = DuckDbFile(place, datasets=())
        warehouse.begin()
        with warehouse.write() as session:
            for number in range(50 if not purge else 0):
                session.change(f"CREATE TABLE t{number} AS SELECT 1 AS a, 'x' AS b")
        if purge:
            warehouse.purge()
        warehouse.publish(ledger)
        assert place.warehouse.stat().st_size < 50 * 2**17, purge  # with DuckDB's own blocks each takes 2**18
    ledger.close()
