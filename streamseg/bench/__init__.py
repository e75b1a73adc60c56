"""Measurements, each as a typed result that prints as a table or as JSON."""
