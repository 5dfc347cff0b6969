"""What stands in a report, a module a tab. Each has one function ``items``: from a study's ``Material``, tables and figures in their order.

Nothing here draws, writes a file or decides what is selected: figures are in ``figures``, forms of tables in ``sheets``,
rules in ``select``.
"""
