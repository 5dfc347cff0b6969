"""``raystudy chaos``: a small real study, run again and again under faults, must come out as if nothing had happened.

Here belong the faults, the study they are done to, and what must hold after each. Everything is real: the command, Ray, MLflow, kill -9,
a full disk. Nothing is patched, so whatever this finds, a user can meet. After each fault the same command is run until it ends, and then

- no trial that had ended is lost or repeated, and no event is in the ledger twice;
- what was tried, decided and measured is what an undisturbed run of the same seed has, apart from the clock;
- MLflow has one run for each trial and one for each cell, none of them RUNNING, each with its whole curve.

Three faults change what a study finds, because they fail a trial: one that hangs, one that diverges, one that eats memory. Of these the
second point is not asked; instead the trial must be told as failed for that reason, and the study must go on to its end.

Who looks for something here: ``bout`` is one study in a folder and the process that runs it, ``faults`` what is done to it, ``servers`` the
MLflow and the proxy that faults need, ``holds`` what must hold afterwards, ``rounds`` one fault after the other, counted.
"""
