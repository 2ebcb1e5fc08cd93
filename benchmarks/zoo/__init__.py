"""A zoo of small text-to-image models with real, frozen text encoders, drawing the pocket world."""
