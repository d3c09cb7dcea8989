"""One module for each command that is more than a call: `train`, `evaluate`, `stats` (pca-stats), `bench`, `demo`."""
