"""Recorded responses on disk: how they are stored, and how long."""
