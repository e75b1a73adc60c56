"""Training a network on a folder of images and labels, and exporting it as an engine: the torch extra."""
