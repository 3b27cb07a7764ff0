"""The cards of a run's trained models once more, now that they are graded."""

from helpers import model_card
from helpers.paths import ROOT
from helpers.profile.schema import Finetune, Model, Plot
from helpers.results import scores
from helpers.results.findings import markdown

RESULTS = """This model, with one training seed, beside its base: {caption}. The ratio of answers \
with full marks by number of skills k, on training skills and topics (setting I), held-out ones \
(II) or all (III), as a judge graded them. The score of a query is its {over_generations} over \
{generations} answers, with its 95% interval; after the stroke the mean of single answers.

{table}"""


def write(notebooks: dict[str, Model]) -> None:
    """Every card of a profile, with its results.

    Args:
        notebooks: of `load_profile`.
    """
    for p in notebooks.values():
        if isinstance(p, Finetune):
            model_card.write(p, results(p, notebooks["04_plot"]))


def results(p: Finetune, plot: Plot) -> str:
    """The scores of this model and of its base, from the run's `scores.csv`."""
    table = scores.read_csv(ROOT / plot.figures / "scores.csv")
    model = p.variant.rpartition("-s")[0]
    base = scores.name_of(scores.student_of(model), "base")
    is_ours = (table.model == model) & (table.seed == p.training_seed)
    rows = table[is_ours | (table.model == base)]
    summary = scores.summary(rows, over_generations=plot.over_generations)
    return RESULTS.format(
        caption=plot.caption,
        over_generations=plot.over_generations,
        generations=summary.generations.max(),
        table=markdown(scores.spread(summary)),
    )
