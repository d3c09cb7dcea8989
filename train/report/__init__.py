"""One page about a run: what it was, how it went, what the network learned, and the paper's results beside it.

`facts.py` reads the run folder, `measure.py` runs the network, `paper.py` holds the paper's tables, `pictures.py` draws,
and `page.py` fills in `page.html`.
"""
