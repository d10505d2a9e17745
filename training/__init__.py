"""Training: images to a run folder (loop.py)."""
