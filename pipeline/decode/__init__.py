"""From encoded bytes to pixels.

Reading order: `settings.py` (what can be chosen), `bad_images.py` (images that cannot be used), `jpeg.py`,
`containers.py` and `formats.py` (one image's bytes, checked before a decoder sees them), `read.py` (which of the three
it is), `graph.py` (what DALI does), `probe.py` (which image DALI refuses), `stream.py` (bytes into a graph, pixels
out), `resample.py` (what DALI leaves to be done on CPUs), `tensors.py` (all of it as torch tensors).
"""
