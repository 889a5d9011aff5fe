"""What people and other systems learn about runs.

Status, incidents, alerts and their notifiers, metrics, lineage and the HTML report. It reads the ledger and never
fails a run. Read first: `status.py`, `incidents.py`.
"""
