"""What the paper measures on trained models: sharpness, surfaces, consistency, communication."""
