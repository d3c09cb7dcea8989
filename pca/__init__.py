"""The colour statistics of a training set: mean image, covariance, eigenvectors, eigenvalues.

Reading order: `moments.py` (exact integer sums), `oracle.py` (scikit-learn's PCA and published constants, to compare
with), `checked.py` (a JSON file, checked as it is read), `stats.py` (the statistics, from the sums, and their file),
`state.py` (how far a pass has come), `compute.py` (the pass over a data set), `figures.py` (the results as a picture).
"""
