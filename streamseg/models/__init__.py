"""The networks, each in one file that reads top-down. They need the torch extra."""
