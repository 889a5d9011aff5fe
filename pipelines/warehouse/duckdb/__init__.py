"""DuckDB: a build copy that is swapped with the published file, and its reader."""
