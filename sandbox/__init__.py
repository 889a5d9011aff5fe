"""Vendors to load from without a vendor: real HTTP servers with seeded data, for the demo, the tests and the bench."""
