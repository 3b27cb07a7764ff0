"""What the notebooks call: rooms by what one does there, which import downwards only.

`pyproject.toml` has their order (importlinter).
"""
