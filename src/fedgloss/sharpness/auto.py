"""How many images `auto` stands for; reading a study asks, and must not import torch for it."""

AUTO = 2500
"""Images that `auto` takes on a processor: the largest eigenvalue of the paper's CNN takes some
minutes then; on all 50,000 it takes hours."""
