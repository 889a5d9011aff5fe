"""The command line: commands, their options, and what they print.

A command parses its options, calls a function of another package and renders the result. No logic that another
caller could need belongs here. Read first: `main.py`, `commands/__init__.py`.
"""
