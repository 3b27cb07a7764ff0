"""Judges of the miniature and what they grade."""

import pytest

from helpers.chat.ledger import Ledger
from helpers.paths import ROOT
from helpers.task import catalog
from helpers.task.prompts import load_pack


@pytest.fixture
def ledger(tmp_path):
    return Ledger(tmp_path / "l.sqlite")


@pytest.fixture(scope="session")
def packs():
    """The shipped prompt packs by the grading's name."""

    def pack(name):
        own = "paper" if name == "json" else name
        prompts = ROOT / "params/prompts"
        return load_pack(prompts / own / "generation.json", prompts / name / "grading.json")

    return {name: pack(name) for name in ("terse", "paper", "json")}


@pytest.fixture(scope="session")
def query():
    skills = catalog.load_skills(ROOT / "params/catalog/miniature/skills.csv")
    by_name = {skill.name: skill for skill in skills}

    def make(*names, topic="sewing"):
        return catalog.Query(topic, tuple(by_name[name] for name in names))

    return make
