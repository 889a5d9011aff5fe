"""One run: from the request to the report.

Options, workers, attempts, load, row-count reconciliation, crash recovery and dbt. What is reported after a run
belongs to `monitoring`. Read first: `runner.py`, `load.py`.
"""
