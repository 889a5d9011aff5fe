"""What the warehouse says about its own tables.

Introspection, read-only queries, comments, schema changes, all-NULL columns, the suppression list, dbt sources and
the data dictionary. It writes only to the `nightload` dataset and to comments. Read first: `introspect.py`,
`schema_changes.py`.
"""
