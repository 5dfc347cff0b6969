"""The first tab of a report, to be explored: a sentence for every condition, a map of methods and noise levels, and whatever a reader
asks for next.

``data`` makes one JSON object of studies, ``headlines`` the sentences, ``tab`` the HTML; ``explore.js`` draws, with Vega-Lite. Nothing
here selects: that is in ``select``, and what is more than chance in ``stats``.
"""
