"""The project on disk and its configuration.

Where the project and its warehouse are, sections and schedules of the settings files, file permissions, atomic
writes, and what must be set before dlt and the allocator start. Vendors check their own sections
(`sources/core/config.py`). Read first: `project.py`, `sections.py`.
"""
