"""The network, as code for one device, and faster forms of two of its layers.

Reading order: `lrn.py` (response normalisation in plain torch), `model.py` (the network), `size.py` (what each layer
gives and costs), `fast_layers.py` (conv1 and normalisation in faster forms), `lrn_cpu.py` with `lrn_cpu.c`, and
`lrn_triton.py` (the kernels of that normalisation).
"""
