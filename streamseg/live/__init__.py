"""The route for cameras: streams, and the pipeline of stages."""
