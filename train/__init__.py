"""The network and its training.

Reading order: `config.py` (every switch, with its source), `model.py` (the network), `optimizer.py` (the paper's update
and its schedules), `step.py` (forward and backward), `fused.py` (layers in faster forms: `lrn_cpu`, `lrn_triton`),
`trainer.py` (the loop), `checkpoint.py`, `evaluate.py`. Several devices: `environment.py` (which rank this is),
`launch.py` (who starts them), `mesh.py` (how they talk), `parallel.py` (the split), `pairs.py` (a pair's images).

Behind the commands: `options.py`, `console.py` and `terminal.py` (what they share), `loading.py` and `session.py` (what
they need before they start), `pca_stats.py`, `run.py`, `bench_train.py`, `bench_loader.py` and `demo.py` (what they
do), `tables.py` and `bench_tables.py` (what they found).
"""
