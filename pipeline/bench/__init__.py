"""How fast the loader is, and why.

It measures the very object that training uses, `../loader.py`, and nothing on the way from files to batches needs it.

Reading order: `windows.py` (measuring, in turns), `page_cache.py` (files into memory, or out of it), `conditions.py`
(the images and settings of every window), `stages.py` (the loader's parts), `peer.py` and `compare.py` (another loader
beside it), `bottleneck.py` (training with it), `sweep.py` (other settings), `result.py` (all of it), `figures.py`.
"""
