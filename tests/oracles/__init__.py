"""Slow and plain implementations that the tests compare the CRF and events with."""
