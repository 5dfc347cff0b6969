"""Reads ledgers; selects, tabulates, reports. Never trains."""
