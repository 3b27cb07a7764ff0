"""Asking a model behind an address: one client, one store of every paid reply, retries, money.

Nothing here knows what is asked.
"""
