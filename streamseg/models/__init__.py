"""Networks in torch, each in one file that reads top-down, and how they become engines; the torch extra."""
