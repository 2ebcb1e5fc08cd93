"""What tells of pictures: faces, whose they are, what they show; with the weights for it."""
