"""The terminal: what the user types and what the user sees. Only `cli.py` imports it.

Reading order: `types.py`, `options.py`, `data_options.py`, `train_options.py` and `command_options.py` (the options),
`errors.py` and `signals.py` (how a command ends early), `terminal.py` (where all text leaves), `progress.py` (bars),
`tables.py` and `bench_tables.py` (results), `imports.py` (a quicker start), `on_mesh.py` (a command on several ranks),
`residency.py` (images that a GPU holds), `processes.py` (many runs), `network_group.py` (the commands that take
something out of a network), `figure_group.py` (those of `alexnet figure`), `experiment_options.py` and
`experiment_group.py` (those that repeat the paper's experiments), `machine_group.py` (those about a machine and its
speed), `commands/` (what each command does).
"""
