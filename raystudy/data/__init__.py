"""Data: loading (``datasets``), noise models (``noise``) and batches on the device (``loader``)."""
