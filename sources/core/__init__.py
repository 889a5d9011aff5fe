"""What every other package of `sources` builds on.

Errors classed by recovery, redaction of secrets, settings, day ranges, ordered concurrency, cancellation and SQL
quoting. Nothing here knows HTTP, a vendor or a table. Read first: `errors.py`, `redaction.py`.
"""
