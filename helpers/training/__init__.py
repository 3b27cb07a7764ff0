"""Fine-tuning a student on chats: one script for one CPU up to several machines.

Nothing here knows where the chats are from.
"""
