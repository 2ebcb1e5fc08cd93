"""The pocket model: an embedded text-to-image world in which identity can be measured."""
