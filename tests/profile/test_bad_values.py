"""Every parameter with values that it may not have: each ends in one sentence, before anything.

The parameters are taken from the schema, so that a new one is tried too, and what of these values
is accepted is written down here.
"""

import math

import pytest
import yaml

from helpers.chat.endpoint import Endpoint
from helpers.errors import UserError
from helpers.profile import load, schema
from helpers.profile.variants import Variants

HUGE, LONG, SHELL = 2**70, "x" * 5000, "$(shell touch made-by-a-value)"
NUMBERS = [True, -1, 0, 0.5, HUGE, math.inf, math.nan]
WORDS = ["", "../x", "/etc/passwd", "a\nb", "a\0b", LONG, SHELL]
LISTS = [[], [[]], [HUGE], [SHELL], [1, 1]]
MAPPINGS = [{}, {SHELL: 1}, {"a": math.inf}, {"01": 5}]
EVERYTHING = [None, *NUMBERS, *WORDS, *LISTS, *MAPPINGS]
ELSEWHERE = {"base_url", "weights"}  # read, and tested, in the room `chat`
ACCEPTED = {
    "extends": [None],
    "things": [""],
    "corpus": ["", "/etc/passwd"],  # may lie anywhere, and is read before anything is asked
    "lora": [None],
    "compile": [True],
    "claims": [[]],
    "judge.json_schema": [],
    "mixes": [{}],  # the students are asked as they are
    "models": [{}],
    "sweeps": [{}],
    "budget": [None, 0, 0.5],
    "deduct_named_skills": [True],
    "seed": [0],
    "learning_rate": [0.5],
    "pairs_apart": [0, 0.5],
    "save_minutes": [0, 0.5],
    "shown_seeds": [[], [1, 1]],
    "warmup": [0],
    "second_judges": [{}],
    "serve": [""],
    "server": [{}],
    "temperature": [0, 0.5],
    "top_p": [0.5],
    "about": ["", "../x", "/etc/passwd", SHELL],
    "caption": ["../x", "/etc/passwd"],
    "judge.batch_api": [True],
    "judge.extra_body": [{}, {SHELL: 1}, {"01": 5}],
    "judge.free": [True],
    "judge.requests_per_minute": [None, 0.5, HUGE],  # a limit that is never met
    "judge.tokens_per_minute": [None, 0.5, HUGE],
    "judge.seed": [0],
    "judge.takes_n": [True],
    "judge.takes_seed": [True],
    "judge.temperature": [None, 0, 0.5],
    "judge.timeout": [0.5],
    "judge.top_p": [None, 0.5],
    "server.model": ["../x", "/etc/passwd", SHELL],
    "server.start_seconds": [0.5, HUGE],  # waits as long as it takes
}


def places():
    """Each key that a profile's YAML may have: its stage, and the keys on the way."""
    seen = set()
    for stage, model in [("shared", Variants), *schema.STAGES.items()]:
        for name in sorted(set(model.model_fields) - schema.DERIVED - seen):
            seen.add(name)
            yield stage, (name,)
    for name in sorted(set(Endpoint.model_fields) - ELSEWHERE):
        yield "shared", ("judge", name)
    for name in ("model", "key_env", "start_seconds"):
        yield "03_grade", ("server", name)


def sentence(profile):
    """What is wrong with the profile; empty if nothing is."""
    try:
        load.load_profile(profile)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(("stage", "path"), list(places()))
def test_a_bad_value_is_one_sentence(profile, stage, path):
    shared = yaml.safe_load((profile / "shared.yaml").read_text())
    file = profile / f"{'shared' if path[0] in shared else stage}.yaml"
    good = yaml.safe_load(file.read_text())
    accepted = []
    for value in EVERYTHING:
        values = {**good, path[0]: value}
        if len(path) == 2:
            values[path[0]] = {**good[path[0]], path[1]: value}
        file.write_text(yaml.safe_dump(values))
        if said := sentence(profile.name):
            assert said.startswith(f"params/{profile.name}/{file.name}: ")
            assert "\n" not in said
            assert len(said) < 700
        else:
            accepted.append(value)
    assert accepted == ACCEPTED.get(".".join(path), [])
