"""What a run is fed: lists of names, descriptions and pictures."""
