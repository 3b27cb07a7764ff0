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
from helpers.profile.schema import Finetune, Generate, Grade, Model, located
from helpers.training import memory

# What was looked at, whether it is there, and a sentence.
Finding = tuple[str, bool, str]


def endpoints(ahead: list[Model]) -> Iterator[Finding]:
    """The key and the price of each model that somebody sends a bill for."""
    asked: list[Endpoint] = []
    for p in ahead:
        if isinstance(p, Generate):
            asked += [p.teacher, p.judge]
        if isinstance(p, Grade):
            asked += p.judges().values()
    billed = [e for e in asked if host(e.base_url).needs_key and not e.free]
    for endpoint in {(e.base_url, e.key_env): e for e in billed}.values():
        key = endpoint.key_env
        good = bool(secret_of(endpoint))
        words = "is set" if good else "is not set; export it"
        yield f"key of {endpoint.base_url}", good, f"the environment variable {key} {words}"
    for endpoint in {e.model: e for e in billed}.values():
        price = price_of(endpoint)
        words = "params/prices.yaml has none: write it there, as the provider's page says"
        if price:
            inward, outward = (1e6 * share for share in price)
            words = f"{inward:,.2f} and {outward:,.2f} US dollars per million tokens in and out"
        yield f"price of {endpoint.model}", price is not None, words


def trainings(profile: str, ahead: list[Model]) -> Iterator[Finding]:
    """Students of the hub; GPUs, memory and disk of trainings on GPUs, or of such a student."""
    finetunes: dict[tuple[str, str], list[Finetune]] = {}
    for p in ahead:
        if isinstance(p, Finetune):
            finetunes.setdefault((p.student, p.topology), []).append(p)
    configs = {}
    for student in dict.fromkeys(p.student for p in ahead if isinstance(p, Finetune | Grade)):
        if not is_hub_name(student):
            configs[student] = memory.config_of(located(student))
            continue
        try:
            configs[student] = memory.config_of(student)
        except UserError as error:
            yield f"student {student}", False, str(error).removeprefix(f"student = {student}: ")
        else:
            yield f"student {student}", True, "the hub gives it"
    largest = models = 0.0  # GB of disk: one training's checkpoints, all models
    for (student, path), variants in finetunes.items():
        topology = memory.read_topology(paths.ROOT / path)
        if topology.cpu and not is_hub_name(student):
            continue
        count, why = len(memory.devices(topology)), None
        if count < topology.processes:
            why = f"it is for {topology.processes} GPUs, and this machine shows {count}"
        if student in configs:
            shape, recipe = memory.shape_of(configs[student]), variants[0].recipe()
            why = memory.misfit(shape, recipe, topology)
            model = shape.weights * (2 if recipe.export_dtype == "bfloat16" else 4) / memory.GB
            models += model * len(variants)
            largest = max(largest, memory.needs(shape, recipe, topology)["disk"] - model)
        yield f"{student} on {Path(path).name}", not why, why or "it fits this machine"
    if models:
        run = paths.run(profile)
        folder = next(path for path in (run, *run.parents) if path.exists())
        need, free = largest + models, shutil.disk_usage(folder).free / memory.GB
        words = f"checkpoints and models need about {need:,.0f} GB, and {free:,.0f} are free"
        yield "disk", need <= free, words


def servers(ahead: list[Model]) -> Iterator[Finding]:
    """Is the program there that `serve` starts, and the GPU that answers are sampled on?"""
    grades = [p for p in ahead if isinstance(p, Grade)]
    here = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    for program in {shlex.split(p.serve)[0] for p in grades if p.serve}:
        found = shutil.which(program, path=here)
        yield f"serve: {program}", bool(found), found or "it is not on the PATH: install it"
    for device in {p.sample_device for p in grades if not p.serve} - {"auto", "cpu"}:
        good = device == "mps" or bool(shutil.which("nvidia-smi"))
        yield f"sample_device: {device}", good, "a GPU is there" if good else "no GPU is there"


def look(profile: str, notebooks: dict[str, Model]) -> list[Finding]:
    """Everything that the notebooks that have not run yet need."""
    run = paths.run(profile)
    ahead = [p for name, p in notebooks.items() if not (run / f"{name}.ipynb").exists()]
    return [*endpoints(ahead), *trainings(profile, ahead), *servers(ahead)]


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
