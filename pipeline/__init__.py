"""From files to batches.

Reading order: `dataset.py` (what an image is: an extent of bytes), `layouts.py`, `splits.py`, `names.py`, `walk.py`,
`archive.py`, `shards.py`, `classes.py` and `val_labels.py` (where they are found; `regular.py` opens them), `index.py`
(the list of them, kept), `plan.py` (which come next and how each is disturbed), `geometry.py` (which part of a source
image a crop is), `augment.py` (all of it in plain numpy: the reference), `graph.py` (the same in DALI), `encoded.py`
(an image's bytes, before they are decoded: `jpeg.py` and `containers.py` by format, `formats.py` names the others),
`stream.py` and `judge.py` (bytes into a graph, tensors out, bad files survived), `resample.py` (on CPUs, what DALI
leaves to be done; `compiled.py` finds its other half), `loader.py` (batches for the trainer), `pack.py` (a data set
down-sampled once).

Beside the flow: `bench/` (how fast the loader is, and why), `generate.py` and `draw.py` (data sets
made of nothing), `doctor.py` and `hardware.py` (what the machine has), `files.py` (files that are whole or absent),
`cache.py` (where what can be made again is kept).
"""
