"""Erase a person: find the rows, delete or mask them, list the vendor's pages."""
