"""Data: loading (``datasets``), noise models (``noise``), batches on the device (``loader``) and their augmentation (``augment``)."""
