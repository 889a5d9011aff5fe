"""Personal data: which columns hold it, what the policy says, and how values are masked.

The extractor applies it (`sources/extract/privacy.py`); erasing a person from a warehouse is
`pipelines/operations/erasure`. Read first: `policy.py`, `masking.py`.
"""
