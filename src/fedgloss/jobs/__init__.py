"""What one job of the workflow does, from files to files."""
