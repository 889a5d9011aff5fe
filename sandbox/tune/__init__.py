"""TUNE's Management API v2: record endpoints with the envelope, dialects and traps of the vendor's sheet."""
