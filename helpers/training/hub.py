"""Which revision of a student from the model hub this machine has, or gets."""

import functools
from pathlib import Path

ANSWERS = 10  # seconds that the hub has to answer


@functools.cache
def revision(student: str) -> str:
    """The commit of a hub student: the one in this machine's cache, else the hub's newest.

    The student is loaded at that commit: what its authors change meanwhile changes nothing here.
    "main" for a folder, and where no commit can be found (offline, gated, no such name).
    """
    if Path(student).exists():
        return "main"
    # Slow to load, and not needed for folders.
    import httpx2
    from huggingface_hub import HfApi, try_to_load_from_cache

    try:
        config = try_to_load_from_cache(student, "config.json")
        if isinstance(config, str):
            return Path(config).parent.name
        return HfApi().model_info(student, timeout=ANSWERS).sha or "main"
    except (OSError, ValueError, httpx2.HTTPError):
        return "main"


def at_revision(student: str) -> str:
    """The student's name in an identity: `owner/model@commit`."""
    commit = revision(student)
    return student if commit == "main" else f"{student}@{commit}"
