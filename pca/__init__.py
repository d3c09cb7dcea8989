"""The colour statistics of a training set: mean image, covariance, eigenvectors, eigenvalues.

Reading order: `moments.py` (exact integer sums), `stats.py` (what follows from them, and its file),
`compute.py` (the pass over a data set).
"""
