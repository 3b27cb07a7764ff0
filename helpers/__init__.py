"""What the notebooks call: modules, and rooms of modules, named by what one does there.

Each imports only from those below it; `pyproject.toml` has their order (importlinter).
"""
