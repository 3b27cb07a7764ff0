"""Asking a judge, and reading its reply: points, or *unreadable*. A point is never guessed."""
