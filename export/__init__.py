"""Export: a run folder to a bundle (bundle.py)."""
