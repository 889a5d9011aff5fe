"""What the vendors say: one dlt source per vendor, and the few rooms that all of them share."""

VENDORS = {
    "tonalytica": "sources.tonalytica",
    "tune": "sources.tune",
}
"""The vendors that a run loads, in this order: name → package."""
