"""The paper's ablations as one experiment: the same training with one thing changed at a time.

Reading order: `variations.py` (what is changed, and what others report of it), `experiment.py` (which runs there are,
in which folders), `results.py` (how each ended), `differences.py` (means and standard errors), `table.py` (all of it
beside the paper), `markdown.py` (as a page). `console/commands/ablate.py` carries the experiment out,
`figures/ablation.py` draws it.
"""
