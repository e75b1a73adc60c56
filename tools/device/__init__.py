"""Measure on a machine with a GPU: README.md tells how."""
