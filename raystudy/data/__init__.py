"""Data sets, noise, batches: reading (``datasets``), noise models (``noise``, ``corruption``), batches on the device (``loader``).

What decides which images and labels a training sees belongs here. Nothing here trains or knows of methods, studies or Ray; what is not
right with a user's data is said in one line (InputError) or as a remark.
"""
