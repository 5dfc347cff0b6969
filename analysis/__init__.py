"""Reads ledgers; selects, tabulates, reports. Never trains.

Which epoch and point: ``select``. The numbers of the leaderboard, its gain among them: ``leaderboard``; on a terminal: ``tables``.
What may be called true: ``truth``. Tests and intervals: ``stats``. The report: ``report``, a module a tab in ``sections``, its figures
in ``figures``.
"""
