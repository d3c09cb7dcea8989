"""The network, as code for one device, and faster versions of some of its layers.

Reading order: `shapes.py` (each layer's parameters), `lrn.py` (response normalisation in plain torch), `model.py` (the
network), `size.py` (shape and cost of each layer), `precision.py` (what a device computes in), `fast_layers.py` (faster
conv1 and normalisation), `lrn_cpu.py` with `lrn_cpu.c`, and `lrn_triton.py` (the kernels of that normalisation).
"""
