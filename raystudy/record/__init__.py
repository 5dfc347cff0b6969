"""What happened, kept: the ledger and its storage, checkpoints, the code it came from.

Reading, writing and moving records belong here. Nothing here decides, trains or shows.
"""
