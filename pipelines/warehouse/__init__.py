"""The databases: DuckDB and Postgres behind two protocols, one to load and one to read.

Opening, locking, SQL text and column types. Which rows go in belongs to `run`; which tables describe the others
belongs to `catalog`. Read first: `base.py`, `open.py`.
"""
