"""How many images a spectrum may be of; reading a study asks, and must not import torch for it."""

AUTO = 2500
"""Images that `auto` takes on a processor: the largest eigenvalue of the paper's CNN takes some
minutes then; on all 50,000 it takes hours."""
LEAST = 100
"""Images of a sample: fewer say nothing of their own error."""
