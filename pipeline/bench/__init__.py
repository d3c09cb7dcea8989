"""How fast the loader is, and why.

What is measured is the very object that training uses, `../loader.py`. Nothing on the way from files to batches needs
this room.

Reading order: `windows.py` (measuring, in turns), `page_cache.py` (files into memory, or out of it), `conditions.py`
(the images and settings of every window), `stages.py` (the loader's parts), `symptoms.py` (which options would help),
`peer.py` and `compare.py` (another loader beside it), `bottleneck.py` (training with it), `sweep.py` (other settings),
`result.py` (all of it), `figures.py` (drawn).
"""
