"""From files to batches.

Reading order: `dataset.py` (what an image is: an extent of bytes), `layouts.py` and `val_labels.py` (where they are
found), `index.py` (the list of them, kept), `plan.py` (which come next and how each is disturbed), `geometry.py` (which
part of a source image a crop is), `augment.py` (all of it in plain numpy: the reference), `graph.py` (the same in
DALI), `stream.py` and `judge.py` (bytes into a graph, tensors out, bad files survived), `loader.py` (batches for the
trainer).

Beside the flow: `bench.py` (how fast it is), `generate.py` and `draw.py` (data sets made of nothing), `doctor.py` and
`hardware.py` (what the machine has).
"""
