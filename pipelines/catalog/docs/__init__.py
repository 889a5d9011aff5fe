"""The data dictionary: HTML pages of tables, columns, samples and relations."""
