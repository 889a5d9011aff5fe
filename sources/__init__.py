"""What the vendors say: one dlt source per vendor, and the few rooms that all of them share."""

VENDORS = {
    "thinkingengine": "sources.thinkingengine",
    "tonalytica": "sources.tonalytica",
    "tune": "sources.tune",
    "dataworks": "sources.dataworks",
    "growingio": "sources.growingio",
}
"""The vendors that a run loads, in this order: name → package."""
