"""Asking a model behind an address: one client, one store of every paid reply, limits and money.

Nothing here knows what is asked.
"""
