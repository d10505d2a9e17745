"""Training: images to a run folder (classify.py, loop.py)."""
