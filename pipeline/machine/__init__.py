"""What this machine has: `hardware.py` reads the facts, `dali_trial.py` decodes one image, `doctor.py` judges."""
