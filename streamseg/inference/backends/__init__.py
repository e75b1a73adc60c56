"""What runs a network: one file for each runtime, behind one protocol."""
