"""Everything about the terminal: what a person types, and what a person sees. Only `cli.py` imports it.

Reading order: `types.py`, `options.py` and `command_options.py` (what is typed), `errors.py` and `signals.py` (how a
command ends early), `terminal.py` (the doors for all text), `progress.py` (while it works), `tables.py` and
`bench_tables.py` (what it found), `on_mesh.py` (a command on several ranks), `commands/` (what each command does).
"""
