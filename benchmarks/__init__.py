"""Benchmarks: ratios within one run, never times asserted in a test."""
