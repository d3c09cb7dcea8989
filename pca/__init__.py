"""The colour statistics of a training set: mean image, covariance, eigenvectors, eigenvalues.

Reading order: `moments.py` (exact integer sums), `oracle.py` (scikit-learn's PCA and published constants, to compare
with), `checked.py` (a JSON file, checked as it is read), `stats.py` (what follows from the sums, and its file),
`state.py` (how far a pass has come), `compute.py` (the pass over a data set), `figures.py` (all of it as a picture).
"""
