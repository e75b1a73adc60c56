"""The dense CRF beside the route: which frames are keyframes, the worker, and how their results travel on."""
