"""Postgres: one transaction a vendor, its dlt destination, reader and views."""
