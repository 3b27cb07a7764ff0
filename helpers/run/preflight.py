"""What a run needs beside this repository, looked at before anything is asked or paid.

`python -m helpers.run.preflight paper`: keys, prices, students of the hub, GPUs, memory, disk, and
the program that serves a student. Stages that have run are not looked at; a profile that needs none
of this prints nothing.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from helpers import evaluate
from helpers.chat.endpoint import Endpoint, host, secret_of
from helpers.chat.money import price_of
from helpers.errors import UserError, command
from helpers.paths import ROOT
from helpers.profile.load import load_profile
from helpers.profile.parameters import Parameters
from helpers.profile.schema import Answers, Finetune, Generate, Grade, located
from helpers.profile.value_types import is_hub_name
from helpers.run.profile_plan import left_of
from helpers.training import memory, own_chats
from helpers.training.topology import read_topology

# What was looked at, whether it is there, and a sentence.
Finding = tuple[str, bool, str]


def tried(what: str, words: str, act: Callable, *arguments) -> Finding:
    """Call `act`; its UserError is what was found, or `words` where all is well."""
    try:
        act(*arguments)
    except UserError as error:
        return what, False, str(error)
    return what, True, words


def endpoints(asked: list) -> Iterator[Finding]:
    """The key and the price of each model that somebody sends a bill for."""
    for endpoint in asked:
        is_paid = isinstance(endpoint, Endpoint) and not endpoint.free
        if is_paid and host(endpoint.base_url).needs_key:
            words = f"environment variable {endpoint.key_env}: export it"
            yield f"key of {endpoint.base_url}", bool(secret_of(endpoint)), words
            price = price_of(endpoint)
            words = "write it into params/prices.yaml, as the provider's page says"
            if price:
                words = f"{price.input:,.2f} US dollars per million tokens in, {price.output:,.2f}"
            yield f"price of {endpoint.model}", bool(price), words


def training(p: Finetune, models: int) -> Iterator[Finding]:
    """The chats it names, GPUs, memory, and disk: for itself, and for `models` models in all."""
    if "chats" in p.mix:
        yield tried(f"chats of {p.mix['chats']}", "they can be read", own_chats.read, p.mix)
    recipe, topology = p.recipe(), read_topology(ROOT / p.topology)
    if topology.cpu:
        return
    count, name = len(memory.devices(topology)), topology.path.name
    words = f"it is for {topology.processes} GPUs, and this machine shows {count}"
    yield f"GPUs of {name}", count >= topology.processes, words
    if count >= topology.processes:
        Path(recipe.out).mkdir(parents=True, exist_ok=True)  # whose disk it is
        fits = "it fits this machine"
        yield tried(f"{p.student} on {name}", fits, memory.check, recipe, topology.path, models)


def server(serve: str) -> Finding:
    """Is the program there that serves a student?"""
    program = shlex.split(serve)[0]
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    found = shutil.which(program, path=here)
    return f"serve: {program}", bool(found), found or "it is not on the PATH: install it"


def look(profile: str, notebooks: dict[str, Parameters]) -> list[Finding]:
    """Everything that the notebooks that have not run yet need, each once.

    Raises:
        UserError: a file of given answers that does not fit this evaluation.
    """
    findings, left = [], left_of(profile, notebooks)
    models = sum(isinstance(p, Finetune) for p in left.values())
    for p in left.values():
        if isinstance(p, Generate):
            findings += endpoints([p.teacher, p.judge])
        if isinstance(p, Finetune):
            findings += training(p, models)
        if isinstance(p, Grade):
            findings += endpoints([*p.judges().values(), p.student])
            if isinstance(p.student, Answers):
                evaluate.answers(p, evaluate.tasks(p), None)
            if p.serve:
                findings.append(server(p.serve))
    for student in {str(getattr(p, "student", "")): None for p in left.values()}:  # each once
        if is_hub_name(student):
            what = f"student {student}"
            findings.append(tried(what, "the hub gives it", memory.config_of, located(student)))
    return list(dict.fromkeys(findings))


def main(profile: str) -> None:
    """Print what was looked at, a line each.

    Raises:
        UserError: something is not there.
    """
    os.environ["HF_HUB_VERBOSITY"] = "error"  # else it reports each attempt
    findings = look(profile, load_profile(profile))
    for what, good, words in findings:
        print(f"{'yes' if good else 'NO':4}{what}: {words}")
    if missing := sum(not good for _, good, _ in findings):
        raise UserError(
            f"PROFILE={profile}: {missing} of {len(findings)} things that it needs are not there;"
            " nothing was asked"
        )


if __name__ == "__main__":
    command(main)
