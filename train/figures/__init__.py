"""The figures of the paper, drawn from trained networks and their runs.

In every file a small function computes arrays, which a frozen dataclass holds, and another draws them. Reading order:
`drawing.py` (what the figures share: colours, titles, files), `kernels.py` (conv1's weights), `activations.py` (what
each layer makes of an image), `predictions.py` (images with their most probable classes), `curves.py` (how runs went),
`pictures.py` (images as the network sees them), `neighbours.py` (the nearest training images), `embedding.py` (t-SNE),
`figure1.py` (ReLU against tanh on CIFAR-10), `ablation.py` (differences between runs).
"""
