"""Measurements for users: the pipeline, engines, live streams. Each returns a typed result."""
