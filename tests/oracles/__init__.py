"""Slow and plain implementations that the tests compare the CRF with."""
