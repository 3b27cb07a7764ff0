"""Students that come from the model hub: which revision of them this machine has."""

from pathlib import Path


def revision(student: str) -> str:
    """The commit of a hub student that is in this machine's cache, fetched if none is.

    It is loaded at that commit, so a student that its authors change meanwhile stays the same here.
    "main" for a folder, and where no commit is to be had (offline, gated, no such name).
    """
    if Path(student).exists():
        return "main"
    from huggingface_hub import errors, hf_hub_download, try_to_load_from_cache

    config = try_to_load_from_cache(student, "config.json")
    if not isinstance(config, str):
        try:
            config = hf_hub_download(student, "config.json")
        except (OSError, ValueError, errors.HfHubHTTPError):
            return "main"
    return Path(config).parent.name


def at_revision(student: str) -> str:
    """The student's name in an identity: `owner/model@commit`."""
    commit = revision(student)
    return student if commit == "main" else f"{student}@{commit}"
