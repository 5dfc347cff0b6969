"""Which labels are wrong, and what they should be: evidence from predictions that have not seen the label, weighed by the noise they show.

``evidence`` predicts each label from the others, ``quality`` weighs it (pure functions), ``judge`` says which labels are issues and why,
``outputs`` and ``page`` write what was found. Nothing here needs the truth (docs/clean.md).
"""
