"""Claims: gains that are paired and corrected, mixes that are found by what they hold, sweeps."""

import itertools
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from helpers.errors import UserError
from helpers.results import findings, scores


def claim(model, against, k, **more):
    """A profile's own, as its YAML has it."""
    given = {"model": model, "against": against, "setting": "I", "k": k}
    return SimpleNamespace(**{"apart": False, "claim": "", **given, **more})


def test_verdicts():
    assert findings.verdict(0.3, 0.4, 0.001) == "holds"
    assert findings.verdict(-0.3, -0.2, 0.001) == "does not hold"
    assert findings.verdict(0.01, 0.04, 0.6) == "does not hold"
    assert findings.verdict(0.1, 0.3, 0.2) == "undecided"


def test_holm():
    adjusted = findings.holm([0.01, 0.04, 0.03, 0.005])
    assert adjusted.tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert findings.holm([0.9, 0.8]).tolist() == pytest.approx([1, 1])
    assert findings.holm([]).tolist() == []


def test_findings_are_paired_corrected_and_always_the_same(simulated):
    table = simulated(np.random.default_rng(2), {"base": 0.1, "k1": 0.1, "k12": 0.1, "k123": 0.8})
    found = findings.findings(table)
    assert found.equals(findings.findings(table))
    lifted = found[(found.model == "k123") & (found.against == "base")]
    assert (lifted.verdict == "holds").all()
    assert not (found[found.model == "k1"].verdict == "holds").any()
    assert (found.p_holm >= found.p).all()
    assert ((found.p_holm < 0.05) <= (found.low > 0)).all(), "what holds has an interval above zero"
    same = table[(table.model == "k123") & (table.seed == 0)]
    itself = findings.findings(pd.concat([same, same.assign(model="base", kind="base", texts=0)]))
    assert (itself.gain == 0).all(), (
        "a model compared with itself on the same queries gains nothing"
    )
    shuffled = same.assign(query=39 - same["query"], model="base", kind="base", texts=0)
    apart = findings.findings(pd.concat([same, shuffled]))
    assert (itself.high < apart.high / 2).all(), "and the pairing leaves little of the spread"


def test_claims_are_about_mixes_by_their_names(simulated):
    """A mix of another name, or another size, is another claim: nothing stands in."""
    table = simulated(np.random.default_rng(3), {"base": 0.1, "k123": 0.8})
    for other in (table.replace({"k123": "everything"}), table.replace({"k123": "k23"})):
        verdicts = findings.findings(other)
        assert verdicts.empty
        assert list(verdicts.columns[-2:]) == ["p_holm", "verdict"]
        assert findings.headline(verdicts).empty
    assert scores.kind_of({"2": 5, "10": 3, "1": 2}) == "k1210"


def test_a_sweeps_claims_are_a_profiles_own(simulated, sweep):
    means = {
        "base": 0.1,
        "k1": 0.1,
        "k12": 0.5,
        "k123": 0.9,
        "k12n300": 0.1,
        "k123n300": 0.8,
        "k12n600": 0.4,
        "k123n600": 0.9,
    }
    table = simulated(np.random.default_rng(4), means, texts=sweep)
    own = [claim(f"k123n{n}", f"k12n{n}", [3, 4], claim=f"{n} texts") for n in (300, 600)]
    found = findings.findings(table, findings.with_own(own))
    swept = found[found.claim.str.contains("texts$")]
    assert swept.claim.tolist() == ["300 texts"] * 2 + ["600 texts"] * 2
    assert (swept.verdict == "holds").all()
    assert set(findings.findings(table).model) == {"k1", "k123"}
    assert set(scores.main_models(table).model) == {"base", "k1", "k12", "k123"}
    explored = findings.exploratory(table, found)
    assert not set(explored.model) & set(sweep), "gains of sweeps are not among all others"
    two = pd.concat(
        [table.assign(model=student + "-" + table.model) for student in ("five", "three")]
    )
    assert len(findings.findings(two, findings.with_own(own))) == 2 * len(found)


def test_chats_of_your_own_are_explored(simulated):
    """They have no k to be compared by; their gains stand among the exploratory ones."""
    means = {"base": 0.1, "k12": 0.5, "own": 0.8}
    table = simulated(np.random.default_rng(4), means, texts={"own": 2400})
    gains = findings.exploratory(table, findings.findings(table))
    assert {"own", "k12"} <= set(gains.model)


def test_two_students_have_their_own_rows(simulated):
    rng = np.random.default_rng(6)
    one = simulated(rng, {"base": 0.2, "k123": 0.6})
    both = pd.concat(
        [one.assign(model=student + "-" + one.model) for student in ("llama-2-13b", "mistral-7b")]
    )
    found = findings.findings(both)
    assert set(found.model) == {"llama-2-13b-k123", "mistral-7b-k123"}


def test_the_control_is_claimed_where_there_is_one(simulated):
    means = {"base": 0.1, "k1": 0.1, "k12": 0.5, "k123": 0.8, "padded": 0.1}
    tables = [simulated(np.random.default_rng(7), means, setting=s) for s in ("I", "II")]
    table = pd.concat(tables)
    control = findings.findings(table).query("against == 'padded'")
    assert [(row.model, row.setting, row.k) for row in control.itertuples()] == [
        ("k123", setting, k) for setting in ("I", "II") for k in (3, 4, 5)
    ]
    assert set(control.verdict) == {"holds"}
    without = table[table.model != "padded"]
    assert "padded" not in set(findings.findings(without).against)


def test_what_no_claim_covers_is_shown_without_a_verdict(simulated):
    table = simulated(np.random.default_rng(8), {"base": 0.1, "k1": 0.1, "k123": 0.8})
    table = table.replace({"k1": "k3", "k123": "k23"})
    verdicts = findings.findings(table)
    assert verdicts.empty
    gains = findings.exploratory(table, verdicts)
    pairs = {("k3", "base"), ("k23", "base"), ("k23", "k3")}
    assert set(zip(gains.model, gains.against, strict=True)) == pairs
    assert len(gains) == len(pairs) * 4, "at every k"
    assert not gains.verdict.any()
    assert gains.p_holm.isna().all()
    assert findings.headline(gains).index.get_level_values("claim").str.contains("no claim").all()


def test_a_profiles_own_claims_are_tested_and_not_exploratory(simulated):
    table = simulated(np.random.default_rng(9), {"base": 0.1, "k1": 0.1, "k123": 0.8})
    table = table.replace({"k1": "k3", "k123": "k23"})
    own = claim("k23", "k3", [3, 4])
    verdicts = findings.findings(table, findings.with_own([own]))
    assert verdicts.k.tolist() == [3, 4]
    assert set(verdicts.verdict) == {"holds"}
    gains = findings.exploratory(table, verdicts)
    assert gains[gains.against == "k3"].k.tolist() == [2, 5]


def test_verdicts_show_the_gain_of_single_answers(simulated):
    best = simulated(np.random.default_rng(2), {"base": 0.1, "k123": 0.8})
    table = pd.concat([best, best.assign(generation=1, full_marks=0.0)])
    verdicts = findings.findings(table)
    assert verdicts.single.tolist() == pytest.approx((verdicts.gain / 2).tolist())
    assert f"/ {verdicts.single[0]:+.2f}" in findings.headline(verdicts)[4].iloc[0]


def test_models_and_claims_stand_in_the_order_given(simulated):
    """In every table; by name k123 would come before k2 and zeta last."""
    table = simulated(np.random.default_rng(9), {"base": 0.1, "k1": 0.1, "k12": 0.5, "k123": 0.8})
    given = ["base", "zeta", "k2", "k123"]
    table = table.replace(dict(zip(("base", "k1", "k12", "k123"), given, strict=True)))
    assert list(dict.fromkeys(scores.summary(table).model)) == given
    assert list(scores.spread(scores.summary(table)).index.get_level_values("model")) == given
    own = [claim(model, "base", [3]) for model in ("zeta", "k2")]
    verdicts = findings.findings(table, findings.with_own(own))
    rows = findings.headline(verdicts).index
    written = [claim.claim for claim in findings.with_own(own)]
    shown = list(rows.get_level_values("claim"))
    assert shown == [claim for claim in written if claim in shown]
    assert shown[-2:] == ["zeta over base", "k2 over base"]
    gains = findings.exploratory(table, findings.findings(table))
    pairs = gains[["model", "against"]].drop_duplicates().to_numpy().tolist()
    assert pairs == [[b, a] for a, b in itertools.combinations(given, 2)]
    shown = findings.headline(gains).index.to_frame()[["model", "against"]]
    assert shown.to_numpy().tolist() == pairs
    two = pd.concat(table.assign(model=f"{student}-" + table.model) for student in ("z", "a"))
    assert list(findings.findings(two).model.str[0].unique()) == ["z", "a"]


def test_what_is_claimed_is_not_explored_the_other_way_round(simulated):
    means = {"base": 0.1, "k123": 0.8, "padded": 0.1}
    table = simulated(np.random.default_rng(7), means, ks=(2, 3, 4, 5))
    gains = findings.exploratory(table, findings.findings(table))
    control = gains[gains.model.isin(["k123", "padded"]) & (gains.against != "base")]
    assert control.k.tolist() == [2], "at k = 3, 4, 5 it is claimed"


def test_no_cell_of_a_claim_is_without_its_verdict(simulated):
    """What does not hold, or is undecided, cannot be read as if it held."""
    table = simulated(np.random.default_rng(2), {"base": 0.3, "k1": 0.05, "k12": 0.5, "k123": 0.6})
    verdicts = findings.findings(table)
    assert set(verdicts.verdict) == {"holds", "does not hold", "undecided"}
    shown = findings.headline(verdicts).stack()
    cells = shown[shown != ""]
    assert len(cells) == len(verdicts)
    for row in verdicts.itertuples():
        cell = cells[(row.claim, row.setting, row.model, row.against, row.k)]
        assert cell.startswith(f"{row.verdict}: {row.gain:+.2f} [")


def test_a_claim_of_pairs_kept_apart_is_of_their_queries_alone(simulated):
    """Of 40 queries 15: there the mixes are equal, and elsewhere k123 has all."""
    table = simulated(np.random.default_rng(3), {"base": 0.2, "k123": 0.2}, ks=(2, 3), apart=15)
    table.loc[(table.model == "k123") & (table.apart == 0), "full_marks"] = 1.0
    own = [claim("k123", "base", [2, 3]), claim("k123", "base", [2, 3], apart=True)]
    found = findings.findings(table, findings.with_own(own)[len(findings.FINDINGS) :])
    assert (
        found.claim.tolist() == ["k123 over base"] * 2 + ["k123 over base (pairs kept apart)"] * 2
    )
    assert found.queries.tolist() == [40, 40, 15, 15]
    assert found.verdict.tolist()[:2] == ["holds"] * 2
    assert (found.gain[2:].abs() < 0.4).all(), "k123 has all of the others alone"
    at_two = found[found.k == 2]
    gains = findings.exploratory(table, at_two[at_two.apart])
    assert 2 in set(gains.k), "a claim of some queries leaves the gain of all to be explored"
    assert 2 not in set(findings.exploratory(table, at_two).k)


def test_unseen_pairs_are_claimed_where_there_are_any(simulated):
    means = {"base": 0.1, "k123": 0.9, "padded": 0.1}
    without = findings.findings(simulated(np.random.default_rng(3), means))
    assert not without.claim.str.startswith(findings.PAIRS).any()
    found = findings.findings(simulated(np.random.default_rng(3), means, apart=15))
    unseen = found[found.claim.str.startswith(findings.PAIRS)]
    assert list(zip(unseen.against, unseen.k, unseen.queries, strict=True)) == [
        ("base", 2, 15),
        ("padded", 2, 15),
    ]
    assert unseen.verdict.tolist() == ["holds"] * 2


def test_the_command_takes_a_profile_without_claims_and_names_a_file_that_is_missing(
    simulated, tmp_path, capsys
):
    table = simulated(np.random.default_rng(2), {"base": 0.1, "k123": 0.8})
    scores.write_csv(table.assign(votes=""), tmp_path / "scores.csv")
    given = [str(tmp_path / "scores.csv"), str(tmp_path / "04_plot.yaml")]
    with pytest.raises(UserError, match=r"04_plot.yaml: no file; name a profile's 04_plot.yaml"):
        findings.main(*given)
    (tmp_path / "04_plot.yaml").write_text("caption: in a test\n")
    findings.main(*given)
    assert findings.FINDINGS[1].claim in capsys.readouterr().out
    (tmp_path / "04_plot.yaml").write_text("# comments alone\n")
    findings.main(*given)


@pytest.mark.parametrize(
    "text",
    ["- 1", "claims: 3", "claims: [k123]", "claims: [{model: k123, against: base}]", "a: [", "\0"],
)
def test_the_command_refuses_a_yaml_without_claims_as_they_are(simulated, tmp_path, text):
    table = simulated(np.random.default_rng(2), {"base": 0.1, "k123": 0.8})
    scores.write_csv(table.assign(votes=""), tmp_path / "scores.csv")
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(UserError, match=r"own.yaml: no 04_plot.yaml; .* model, against, setting"):
        findings.main(str(tmp_path / "scores.csv"), str(tmp_path / "own.yaml"))


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", b"\xff\xd8"])
def test_the_command_refuses_another_table(tmp_path, content):
    (tmp_path / "other.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"other.csv: no scores.csv of 04_plot, it lacks model, "):
        findings.main(str(tmp_path / "other.csv"))


def test_a_claims_own_words_stand_in_its_rows():
    [*_, own] = findings.with_own([claim("k2", "k1", [2], claim="pairs teach", apart=True)])
    assert own.claim == "pairs teach (pairs kept apart)"


def test_a_profiles_own_claims_are_corrected_by_themselves(simulated):
    """However many there are, the verdicts of the others stay."""
    table = simulated(np.random.default_rng(2), {"base": 0.1, "k1": 0.15, "k12": 0.3, "k123": 0.4})
    alone = findings.findings(table)
    own = [claim("k12", "k1", [k], claim=f"claim {k}") for k in (2, 3, 4, 5)]
    both = findings.findings(table, findings.with_own(own))
    assert both[~both.own].p_holm.tolist() == alone.p_holm.tolist()
    theirs = both[both.own]
    assert theirs.p_holm.tolist() == findings.holm(theirs.p).tolist()
    assert (theirs.p_holm > theirs.p).any()
