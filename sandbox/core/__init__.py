"""What all played vendors share: the control path, faults, the record of requests, the clock, and hostile values.

A vendor's tables, answers and keys belong into its own folder. Read first: `vendor.py` (what a vendor offers) and
`faults.py` (what a rule can do).
"""
