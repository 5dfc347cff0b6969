"""Data: reading (``datasets`` and what it names), noise models (``noise``), batches on the device (``loader``) and ``augment``."""
