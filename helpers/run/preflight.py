"""What a run needs beside this repository, looked at before anything is asked or paid.

`python -m helpers.run.preflight paper`: keys, prices, students of the hub, GPUs, memory, disk, and
the program that serves a student. Stages that have run are not looked at; a profile that needs none
of this prints nothing.
"""

import logging
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from helpers import paths
from helpers.chat.endpoint import Endpoint, host, secret_of
from helpers.chat.money import price_of
from helpers.errors import UserError, command
from helpers.profile.kinds import is_hub_name
from helpers.profile.load import load_profile
from helpers.profile.schema import Answers, Finetune, Generate, Grade, Model, located
from helpers.training import chats, memory

# What was looked at, whether it is there, and a sentence.
Finding = tuple[str, bool, str]


def endpoints(ahead: list[Model]) -> Iterator[Finding]:
    """The key and the price of each model that somebody sends a bill for."""
    asked = []
    for p in ahead:
        if isinstance(p, Generate):
            asked += [p.teacher, p.judge]
        if isinstance(p, Grade):
            asked += p.judges().values()
            if isinstance(p.student, Endpoint):
                asked.append(p.student)
    for endpoint in asked:
        if endpoint.free or not host(endpoint.base_url).needs_key:
            continue
        key = f"the environment variable {endpoint.key_env} holds"
        if secret_of(endpoint):
            yield f"key of {endpoint.base_url}", True, f"{key} it"
        else:
            yield f"key of {endpoint.base_url}", False, f"{key} none; export it"
        if price := price_of(endpoint):
            words = f"{price.input:,.2f} US dollars per million tokens in, {price.output:,.2f} out"
        else:
            words = "params/prices.yaml has none: write it there, as the provider's page says"
        yield f"price of {endpoint.model}", bool(price), words


def trainings(profile: str, ahead: list[Model]) -> Iterator[Finding]:
    """Students of the hub; GPUs, memory and disk of trainings on GPUs, or of such a student."""
    configs = {}
    students = [p.student for p in ahead if isinstance(p, Finetune | Grade)]
    for student in dict.fromkeys(name for name in students if isinstance(name, str)):
        words = "the hub gives it"
        try:
            configs[student] = memory.config_of(located(student))
        except UserError as error:
            words = str(error).removeprefix(f"student = {student}: ")
        if is_hub_name(student):
            yield f"student {student}", student in configs, words
    checkpoints = models = 0.0  # GB of disk: of the largest training, and of all together
    for p in ahead:
        topology = isinstance(p, Finetune) and memory.read_topology(paths.ROOT / p.topology)
        if not topology or (topology.cpu and not is_hub_name(p.student)):
            continue
        if p.student in configs:
            shape, recipe = memory.shape_of(configs[p.student]), p.recipe()
            why = memory.misfit(shape, recipe, topology)
            model = shape.weights * (2 if p.export_dtype == "bfloat16" else 4) / memory.GB
            models += model
            checkpoints = max(checkpoints, memory.needs(shape, recipe, topology)["disk"] - model)
        else:
            count = len(memory.devices(topology))
            why = f"it is for {topology.processes} GPUs, and this machine shows {count}"
            why = why if count < topology.processes else None
        yield f"{p.student} on {topology.path.name}", not why, why or "it fits this machine"
    if models:
        run = paths.run(profile)
        folder = next(path for path in (run, *run.parents) if path.exists())
        need, free = checkpoints + models, shutil.disk_usage(folder).free / memory.GB
        words = f"checkpoints and models need about {need:,.0f} GB, and {free:,.0f} are free"
        yield "disk", need <= free, words


def own_chats(ahead: list[Model]) -> Iterator[Finding]:
    """Can the chats be read that students are trained on, each of them?"""
    mixes = {str(p.mix): p.mix for p in ahead if isinstance(p, Finetune) and "chats" in p.mix}
    for mix in mixes.values():
        what = f"chats of {mix['chats']}"
        try:
            yield what, True, f"{len(chats.read(mix)):,} chats"
        except UserError as error:
            yield what, False, str(error)


def servers(ahead: list[Model]) -> Iterator[Finding]:
    """Is the program there that `serve` starts?"""
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    for p in ahead:
        if isinstance(p, Grade) and p.serve:
            program = shlex.split(p.serve)[0]
            found = shutil.which(program, path=here)
            yield f"serve: {program}", bool(found), found or "it is not on the PATH: install it"


def look(profile: str, notebooks: dict[str, Model]) -> list[Finding]:
    """Everything that the notebooks that have not run yet need, each once.

    Raises:
        UserError: answers that somebody else made, and that are not those to this evaluation.
    """
    run = paths.run(profile)
    ahead = [p for name, p in notebooks.items() if not (run / f"{name}.ipynb").exists()]
    for p in ahead:
        if isinstance(p, Grade) and isinstance(p.student, Answers):
            from helpers import evaluate  # slow to load: it can sample

            evaluate.answers(p, evaluate.tasks(p), None)
    findings = [*endpoints(ahead), *trainings(profile, ahead), *own_chats(ahead), *servers(ahead)]
    return list(dict.fromkeys(findings))


def main(profile: str) -> None:
    """Print what was looked at, a line each.

    Raises:
        UserError: something is not there.
    """
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of each attempt
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
