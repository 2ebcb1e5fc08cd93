"""Proof on a live server: a matrix of requests, and what its signed trace says of each."""
