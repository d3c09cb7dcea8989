"""Data sets for those who have none: `draw.py` draws one picture, `generate.py` makes a folder of them."""
