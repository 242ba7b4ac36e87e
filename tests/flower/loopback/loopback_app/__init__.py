"""A small network on four nodes."""
