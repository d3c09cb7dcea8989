"""A module for each command that takes more than one call: `train`, `evaluate`, `features`, `predict`, `stats`
(pca-stats), `pack`, `bench` (bench-loader and bench-train), `figure` and `figure_features` (its group), `codes`,
`export`, `report`, `figure1` and `ablate` (experiments), `demo`."""
