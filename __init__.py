"""AlexNet, the network of 2012, at the speed of today's hardware.

Reading order: `cli.py` (what can be asked for), `pipeline/` (from files to batches), `pca/` (the colour statistics of a
training set), `train/` (the network, its training, its evaluation). Beside them, `console/` is everything about a
terminal. `README.md` leads through the files in the order in which an image passes through them.
"""

__version__ = "0.1.0"
