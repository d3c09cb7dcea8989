"""A trained network for other programs.

Reading order: `onnx_graph.py` (the network as a graph of ONNX), `onnx_check.py` (onnxruntime beside our own network),
`export.py` (one file in a chosen format). `../published.py` knows torchvision's names, `../safe_tensors.py` the format
that other commands read back.
"""
