"""Reads records; selects, tabulates, reports. Never trains, and never writes a record.

Which epoch and point: ``select``. The leaderboard's numbers, its gain among them: ``leaderboard``; on a terminal: ``tables``. What may be
called true: ``truth``. Tests and intervals: ``stats``. The report: ``report``, a module a tab in ``sections``, figures in ``figures``.
"""
