"""From a vendor's tables to files that are ready to load.

Table declarations, the state of one sync, the extractor, checks before the load, hints for dlt, and the protocol that
every vendor implements. How rows enter a warehouse belongs to `pipelines`. Read first: `sync.py`, `extractor.py`.
"""
