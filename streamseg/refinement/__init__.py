"""Logits → sharper, steadier labels: keyframes, the CRF process, flow, fusion, smoothing."""
