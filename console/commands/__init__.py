"""A module for each command that takes more than one call: `train`, `evaluate`, `predict`, `stats` (pca-stats), `pack`,
`bench` (bench-loader and bench-train), `demo`."""
