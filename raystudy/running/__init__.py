"""A study being run: built, searched, executed by Ray, watched and stopped; and what it will take.

Everything that decides from records which trial is next or stops belongs here. Nothing here trains, draws results or talks to MLflow
itself.
"""

from raystudy import packages

packages.pin()  # whoever imports this room first, a worker of Ray included: before a file of the working folder is taken for ours
