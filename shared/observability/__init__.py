"""Metrics (``aggregate``, ``prometheus``), the own log (``logs``), the page of ``reasons``."""
