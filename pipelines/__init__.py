"""What happens to the rows: warehouse, run, ledger, publishing, and the command line."""

__version__ = "0.1.0"
