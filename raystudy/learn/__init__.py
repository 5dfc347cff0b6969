"""One training: data -> noise -> method -> records, without Ray.

The loop, networks, methods, their maths and the metrics belong here. Nothing here selects, stops early, or writes a ledger; methods never
see the truth.
"""
