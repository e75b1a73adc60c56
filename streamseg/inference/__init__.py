"""Decoded pictures → logits → labels: engines, what runs them, and the scaling on both sides."""
