"""From encoded bytes to pixels.

Reading order: `settings.py` (what can be chosen), `bad_images.py` (images that cannot be used), `jpeg.py`,
`containers.py` and `formats.py` (one image's bytes, checked before a decoder sees them), `read.py` (picks among the
three), `graph.py` (what DALI does), `probe.py` (which image DALI refuses), `stream.py` (bytes into a graph, pixels
out), `resample.py` (what DALI leaves to the CPU), `tensors.py` (the results as torch tensors).
"""
