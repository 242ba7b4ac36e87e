"""The types of configuration files, against which each is checked once, as it is read."""
