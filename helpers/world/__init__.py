"""The embedded world: a language of skills and topics, a teacher and a judge, tiny students.

Nothing here knows the experiment: it answers chat requests, as any server would.
"""
