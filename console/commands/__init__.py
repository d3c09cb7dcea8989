"""One module for each command that is more than a call: `train`, `evaluate`, `predict`, `stats` (pca-stats), `pack`,
`bench` (bench-loader and bench-train), `demo`."""
