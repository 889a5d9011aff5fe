"""The ledger: a SQLite file beside the warehouse with every run and its tables.

It lives outside the warehouse so that a failed run is recorded when the warehouse cannot be opened. What is derived
from it (status, incidents) belongs to `monitoring`. Read first: `store.py`.
"""
