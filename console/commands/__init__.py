"""A module for each command that takes more than one call: `train`, `evaluate`, `stats`, `bench`, `demo`."""
