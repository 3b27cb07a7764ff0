"""Processes of their own, to be killed, that do not import everything anew.

They are forked from a process that has imported the modules which asked for it: importing torch and
transformers takes 4 s, the chat client 1 s.
"""

import multiprocessing
from multiprocessing.context import ForkServerContext

PRELOADED = []


def forks(module: str) -> ForkServerContext:
    """`forks(__name__).Process(target=..., args=...)`: the target is a function of that module."""
    PRELOADED.append(module)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context
