"""From a judge's reply to points, or to *unreadable*. A point is never guessed."""
