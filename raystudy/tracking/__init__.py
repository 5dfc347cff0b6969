"""MLflow: a projection of the ledger that can be deleted and rebuilt.

Only this room talks to MLflow about studies. It reads records and decides nothing; a study goes on without it.
"""
