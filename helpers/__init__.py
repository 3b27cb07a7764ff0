"""What the notebooks call. Rooms by what one does there; imports go downwards only (pyproject.toml, importlinter)."""
