"""How fast the loader is, and why.

It measures the very object that training uses, the `Loader` of `../loader.py`. Nothing on the way from files to
batches depends on this package.

Reading order: `windows.py` (measuring, in turns), `page_cache.py` (files into memory, or out of it), `conditions.py`
(the images and settings of every window), `stages.py` (the loader's parts), `symptoms.py` (which options would help),
`peer.py` and `compare.py` (another loader beside it), `bottleneck.py` (training with it), `sweep.py` (other settings),
`result.py` (all results), `figures.py` (the results as a picture).
"""
