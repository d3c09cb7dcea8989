"""From encoded bytes to pixels.

Reading order: `settings.py` (what can be chosen), `bad_images.py` (images that cannot be used), `jpeg.py`,
`containers.py` and `formats.py` (one image's bytes, checked before a decoder sees them), `read.py` (picks among the
three), `graph.py` (what DALI does), `probe.py` (which image DALI refuses), `stream.py` (bytes into a graph, pixels
out), `crops.py` (batches of crops, on the CPU), `resample.py` (from what DALI has decoded), `dct.py` (from
coefficients, without DALI), `dct_gpu.py` and `dct_triton.py` (the same on a GPU), `resident.py` (coefficients held
there), `upload.py` (from the CPU to a GPU), `tensors.py` (the results as torch tensors). `transcode.py` turns JPEGs
into coefficients.
"""
