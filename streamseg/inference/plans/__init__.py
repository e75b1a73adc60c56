"""What backends build ahead: cache, recipe key, build process, verification."""
