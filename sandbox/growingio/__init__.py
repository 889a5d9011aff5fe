"""GrowingIO, as its own pages and its clients' code tell of it."""
