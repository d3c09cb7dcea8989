"""From files to batches.

Reading order: `dataset.py` (where the images are), `plan.py` (which come next and how each is disturbed),
`geometry.py` (which part of a source image a crop is), `augment.py` (all of it in plain numpy: the reference),
`graph.py` (the same in DALI), `stream.py` (bytes into a graph, tensors out, bad files survived), `loader.py`
(batches for the trainer).
"""
