"""The embedded world: a language of skills and topics, a teacher and a judge who know it, and tiny students trained on it."""

import functools
import hashlib
from collections.abc import Iterable
from pathlib import Path

from helpers.errors import UserError


@functools.cache
def version() -> str:
    """A hash of everything that decides what teacher and judge say: another world's replies are not this one's."""
    files = ("language.py", "detectors.py", "endpoint.py")
    return hashlib.sha256(b"".join((Path(__file__).parent / name).read_bytes() for name in files)).hexdigest()[:12]


def check(model: str, skills: Iterable[str], topics: Iterable[str]) -> None:
    """Does the world have this model, and know what it will be asked?

    Raises:
        UserError: it does not.
    """
    from helpers.world.endpoint import MODELS  # the world is loaded only where it is asked
    from helpers.world.language import PHRASINGS, TOPICS

    for kind, asked, known in (("model", [model], MODELS), ("skill", skills, PHRASINGS), ("topic", topics, TOPICS)):
        if unknown := [x for x in asked if x not in known]:
            raise UserError(
                f"base_url = world: has no {kind} {unknown[0]}; name another server there"
                + (
                    f", or one of the models {', '.join(known)}"
                    if kind == "model"
                    else ", or take skills and topics of params/catalog/miniature"
                )
            )
