"""Cohort training, the round loop, and checkpoints."""
