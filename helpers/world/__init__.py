"""The embedded world: a small language with its teacher, its judge and its base student, for runs with no network."""
