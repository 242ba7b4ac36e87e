"""A study: from one configuration file to cells with every number resolved, and their state."""
