"""Every number of a run, with its source; `config.py` joins them into one class.

Reading order. `setting.py` (how one is declared, checked and shown), `run.py`, `network.py`, `images.py` and
`optimisation.py` (the settings themselves), `presets.py` (named values for them), `contradictions.py` (values that do
not go together).
"""
