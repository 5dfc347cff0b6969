"""MLflow: a projection of the ledger that can be deleted and rebuilt.

Only this room talks to MLflow about studies. It reads records and decides nothing. A server that does not answer
when a study begins refuses it; one that goes away later does not hold it up, and `raystudy sync` brings what is lacking.
"""

from raystudy import packages

packages.pin()  # whoever imports this room first, a worker of Ray included: before a file of the working folder is taken for ours
