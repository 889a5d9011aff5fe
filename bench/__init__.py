"""How fast nightload is, beside other ways to load the same bytes: `python -m bench` (see `bench.__main__`)."""
