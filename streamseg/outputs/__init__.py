"""Pictures that may leave the process: previews, overlays, PNG."""
