"""Tables beside the published numbers, figures, and the one-page report; never needs PyTorch."""
