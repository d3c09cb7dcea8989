"""One page about a run: what it was, how it went, what the network learned, and the paper's results beside it.

`facts.py` reads the run folder, `measure.py` runs the network, `paper.py` holds the paper's tables, `sections.py`
and `pictures.py` draw, `page.py` fills in `page.html`, and `report.py` calls them.
"""
