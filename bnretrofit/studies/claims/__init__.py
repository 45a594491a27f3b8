"""The claims, one to a file."""
