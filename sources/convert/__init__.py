"""From JSON and CSV on disk to typed columns.

Responses are spooled to disk, DuckDB casts them with declared types and proves each value; values that do not fit
take the strict path in Python. Nothing here fetches or loads. Read first: `parquet.py`, `fast_cast.py`.
"""
