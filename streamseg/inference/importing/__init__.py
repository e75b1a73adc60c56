"""Engines from other people's ONNX files: what a graph and the files beside it tell, and what is guessed."""
