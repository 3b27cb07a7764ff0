"""A profile's own claims: a mix that it has not is refused before anything runs."""

import pytest

from helpers.errors import UserError
from helpers.profile.schema import Plot

GIVEN = {
    "profile": "x",
    "seed": 0,
    "generated": True,
    "trained": ["five-k3-s0", "five-k23-s0"],
    "graded": ["five-base", "five-k3-s0", "five-k23-s0"],
    "figures": "runs/x/figures",
    "caption": "in a test",
}
CLAIM = {"model": "k23", "against": "k3", "setting": "I", "k": [3, 4, 5]}


def test_a_claim_names_two_mixes_of_the_profile():
    [claim] = Plot.of({**GIVEN, "claims": [CLAIM]}).claims
    assert (claim.model, claim.against, claim.k) == ("k23", "k3", [3, 4, 5])
    assert Plot.of(GIVEN).claims == []


def test_a_claim_stands_once():
    """Of others that differ in k, in pairs apart or in their words there is a row each."""
    others = [CLAIM | {"k": [2]}, CLAIM | {"apart": True}, CLAIM | {"claim": "in words"}]
    Plot.of({**GIVEN, "claims": [CLAIM, *others]})
    with pytest.raises(UserError, match="claims: k23 over k3, setting I, k = 4, stands twice"):
        Plot.of({**GIVEN, "claims": [CLAIM, CLAIM | {"k": [4]}]})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"against": "k12"}, "claims: k12 is none of five-base, five-k3, five-k23"),
        ({"setting": "IV"}, "claims.0.setting"),
        ({"k": []}, "claims.0.k"),
        ({"against": "k23"}, "claims: k23 is claimed to be better than itself"),
        ({"apart": True, "k": [1]}, "claims: apart is of pairs of skills"),
        ({"claim": "two\nlines"}, "claims.0.claim"),
    ],
)
def test_other_claims_are_refused_in_a_sentence(wrong, words):
    with pytest.raises(UserError) as error:
        Plot.of({**GIVEN, "claims": [CLAIM | wrong]})
    assert words in str(error.value)
