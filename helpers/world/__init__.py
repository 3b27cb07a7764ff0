"""The embedded world: a language of skills and topics, a teacher and a judge who know it, tiny students trained on it.

Nothing here knows the experiment: it answers chat requests, as any server would.
"""
