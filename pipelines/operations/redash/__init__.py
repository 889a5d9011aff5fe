"""Tools for a Redash server: export its queries, and find the tables that they read."""
