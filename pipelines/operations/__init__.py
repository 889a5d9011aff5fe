"""Commands that an operator runs on purpose.

Backfill, replay, state, drop, copy, preview, erasure and the Redash tools. A scheduled run needs none of them. Read
first: `backfill.py`, `state.py`.
"""
