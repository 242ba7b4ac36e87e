"""The handwritten digits as a Flower app."""
