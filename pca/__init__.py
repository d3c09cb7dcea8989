"""The colour statistics of a training set: mean image, covariance, eigenvectors, eigenvalues.

Reading order: `moments.py` (exact integer sums), `stats.py` (what follows from them, and its file, with
`checked.py`), `oracle.py` (scikit-learn's opinion, and other people's constants), `compute.py` (the pass over a
data set, with `state.py`, what a killed pass goes on from), `figures.py`.
"""
