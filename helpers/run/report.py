"""Makes `report.html`, a short paper of a profile's run, as one page that loads nothing.

Its words are in `report.html.jinja`. What fills them is computed here from `scores.csv`, the
corpus, the graded answers and the manifest; figures and most tables are those of the executed
04_plot. What a model wrote is escaped; a section whose contents a run does not have is left out.
"""

import re
from pathlib import Path

import jinja2
import nbformat
import pandas as pd
from markupsafe import Markup

from helpers import paths, text_tables
from helpers.errors import UserError, command
from helpers.files import read_json_lines, sha256, write_text
from helpers.highlight import marked
from helpers.paths import ROOT
from helpers.profile.load import load_profile
from helpers.profile.parameters import Parameters
from helpers.profile.schema import Grade, Plot
from helpers.results import agreement, figure_style, findings, leaks, lost_points, scores
from helpers.run import card_results, manifest, manifest_tables
from helpers.task.catalog import SETTINGS
from helpers.training import recipe

HERE = Path(__file__).parent
PAIRS = 5  # texts shown before and after the training
INTERVAL = re.compile(r"([-+\d.]+) \[([-+\d.]+), ([-+\d.]+)\]")  # kept on one line


def readable(html: str) -> Markup:
    """A table's HTML, without the style that pandas gives it in notebooks."""
    html = re.sub("<style.*?</style>", "", html, flags=re.DOTALL)
    return Markup(INTERVAL.sub(r"\1&nbsp;[\2,&nbsp;\3]", html))


def table(frame: pd.DataFrame, **settings) -> Markup:
    """A table with everything in it escaped; `settings` are those of `DataFrame.to_html`."""
    with pd.option_context("display.max_colwidth", None):
        return readable(frame.to_html(border=0, **settings))


def before_and_after(p: Plot, base: str, after: str) -> text_tables.Page | None:
    """The first answers of two models to the first query of up to five settings and k."""
    files = [paths.grades(p.profile, variant) for variant in (base, after)]
    before, theirs = (text_tables.answers(read_json_lines(file, "03_grade")) for file in files)
    place = ["setting", "k", "query", "generation", "topic"]
    theirs = theirs[[*place, "text", "lost"]]
    both = before.merge(theirs, on=place, suffixes=(" before", " after"))
    firsts = both[both.k > 1].groupby(["setting", "k"]).head(1)
    chosen = firsts.iloc[:: max(1, len(firsts) // PAIRS)].head(PAIRS)
    columns = ["setting", "k", "topic", "skills", "text before", "lost before"]
    columns += ["text after", "lost after"]
    return text_tables.table(chosen[columns], ["text before", "text after"])


def of_scores(p: Plot, longest: int) -> dict:
    """What `scores.csv` says, by its names in the template.

    Args:
        longest: the largest k of the corpus.
    """
    scored = scores.read_csv(ROOT / p.figures / "scores.csv")
    rules = {"over_generations": p.over_generations}
    written = findings.with_own(p.claims)
    verdicts = findings.findings(scored, written, **rules)
    compared = "{model} over {against}, setting {setting}, {queries} queries, {seeds} training seed"
    verdicts["compared"] = [
        compared.format(**row) + "s"[: row["seeds"] != 1] for row in verdicts.to_dict("records")
    ]
    main = scores.main_models(scored)
    mixes = main[main.kind != scores.PADDED].sort_values(["texts", "model"])
    best = mixes.model.iloc[-1]
    student = scores.student_of(best)
    base, control = (scores.name_of(student, mix) for mix in ("base", scores.PADDED))
    ks = sorted(set(main.k))
    every = scores.summary(main, **rules)
    unseen = next((k for k in ks if k > longest > 0), ks[-1])
    full_marks = scores.spread(every)
    at_unseen = full_marks[unseen].unstack("setting").add_prefix("setting ")
    students = dict.fromkeys(main.model.map(scores.student_of))
    shown = ("base", scores.PADDED, scores.mix_of(best))
    trained = [scores.name_of(of, mix) for of in students for mix in shown]
    trained = [model for model in trained if model in at_unseen.index]
    headline = at_unseen.loc[trained if p.trained else list(dict.fromkeys(main.model))]
    if p.trained:
        headline.insert(0, "model", [figure_style.title_of(scores.mix_of(m)) for m in trained])
    decided = (scored.k + 2)[scored.gradings > 1].sum()  # points; sentences are counted in code
    return {
        "agreed": 1 - len(lost_points.not_unanimous(scored)) / max(1, decided),
        "decided": decided,
        "full_marks": full_marks,
        "sampled": figure_style.sampled(every),
        "headline": headline.rename_axis(index=None, columns=None),
        "unseen": unseen,
        "longest": longest,
        "missing": lost_points.missing(main).to_dict("records"),
        "verdicts": verdicts.to_dict("records"),
        "verdict_words": list(findings.VERDICTS),
        "counted": findings.counted(verdicts),
        "numbers": verdicts.drop(columns=["claim", "compared", "own", "se", "p"]).assign(
            p_holm=["< 0.001" if p < 0.001 else f"{p:.3f}" for p in verdicts.p_holm]
        ),
        "is_single": (verdicts.model.map(scores.mix_of) == "k1").any(),
        "is_apart": bool(main.apart.any()),
        "is_swept": bool(p.swept),
        "swapped": agreement.swap(scored, written, **rules),
        "best": best,
        "base": base,
        "control": control if control in at_unseen.index else "",
        "after": next(v for v in p.graded if scores.model_of(v) == best),
    }


def outputs(profile: str) -> dict[str, list]:
    """What the executed 04_plot shows, by its cells' names.

    Raises:
        UserError: it is damaged.
    """
    path = paths.run(profile) / "04_plot.ipynb"
    try:
        executed = nbformat.read(path, as_version=4)
        return {cell.id: cell.get("outputs", []) for cell in executed.cells}
    except (ValueError, TypeError, AttributeError, nbformat.ValidationError):
        raise UserError(
            f"{path}: damaged, no notebook; remove it, and make reproduce PROFILE={profile}"
            " makes it again"
        ) from None


def check_scores(p: Plot, lines: list[dict]) -> None:
    """Check that the scores are those that the executed 04_plot wrote with its figures.

    Raises:
        UserError: they are not, as after a checkout of committed figures.
    """
    name = f"{p.figures}/scores.csv"
    made = manifest.newest(lines).get("04_plot", {}).get("made", {})
    if made.get(name, "") not in ("", sha256(ROOT / name)):
        raise UserError(
            f"{name}: not the one that 04_plot wrote in runs/{p.profile}; remove"
            f" runs/{p.profile}/04_plot.ipynb, and make reproduce PROFILE={p.profile} writes it"
        )


def contents(profile: str, notebooks: dict[str, Parameters]) -> dict:
    """Everything that the page shows, by its names in the template."""
    p = notebooks["04_plot"]
    lines = manifest.read(profile)
    check_scores(p, lines)
    corpus = read_json_lines(paths.corpus(profile), "01_generate") if p.generated else []
    kept = [record for record in corpus if not record["dropped"]]
    plain = [record for record in kept if not record["things"]]
    example = max(plain, key=lambda record: record["k"], default=None)
    found = of_scores(p, max((record["k"] for record in corpus), default=0))
    pairs = None
    if found["base"] in set(p.graded) - {found["after"]}:
        pairs = before_and_after(p, found["base"], found["after"])
    return {
        **found,
        "p": p,
        "grade": next(q for q in notebooks.values() if isinstance(q, Grade)),
        "style": Markup((HERE / "report.css").read_text(encoding="utf-8")),
        "method": Markup((HERE / "method.svg").read_text(encoding="utf-8")),
        "outputs": outputs(profile),
        "findings": findings,
        "SETTINGS": SETTINGS,
        "near": leaks.NEAR,
        "written": len(corpus),
        "kept": len(kept),
        "example": example,
        "marked": example and Markup(marked(example["text"], example["skills"])),
        "pairs": pairs and Markup(pairs),
        "took": manifest_tables.stages(lines),
        "facts": manifest_tables.facts(lines),
        "other_code": [v for v in p.trained if recipe.other_code(paths.training(profile, v))],
        "notebooks": notebooks,
    }


def render(profile: str, notebooks: dict[str, Parameters]) -> str:
    """The page, which loads nothing."""
    page = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters.update(table=table, readable=readable)
    return page.get_template("report.html.jinja").render(contents(profile, notebooks))


def main(profile: str) -> None:
    """Write the report beside the profile's figures, and the models' cards; print the path.

    Raises:
        UserError: the profile has not been run to its end.
    """
    notebooks = load_profile(profile)
    executed, p = paths.run(profile) / "04_plot.ipynb", notebooks["04_plot"]
    if not executed.exists():
        raise UserError(
            f"{executed.relative_to(ROOT)}: no such file;"
            f" make reproduce PROFILE={profile} makes it, and the report"
        )
    write_text(ROOT / p.figures / "report.html", render(profile, notebooks))
    card_results.write(notebooks)
    print(f"{p.figures}/report.html")


if __name__ == "__main__":
    command(main)
