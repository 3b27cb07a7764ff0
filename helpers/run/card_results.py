"""Writes the cards of a run's trained models again, with their results, once they are graded."""

from helpers import model_card
from helpers.paths import ROOT
from helpers.profile.parameters import Parameters
from helpers.profile.schema import Finetune, Plot
from helpers.results import scores
from helpers.results.findings import markdown

RESULTS = """This model, with one training seed, beside its base: {caption}. The ratio of answers \
with full marks by number of skills k, on training skills and topics (setting I), held-out ones \
(II) or all (III), as a judge graded them. The score of a query is the {over_generations} over its \
answers, with its 95% interval; after the stroke the mean of single answers.

{table}"""


def write(notebooks: dict[str, Parameters]) -> None:
    """Write the card of every model of a profile, with its scores and those of its base.

    Args:
        notebooks: the parameters by notebook, as `load_profile` gives them.
    """
    plot: Plot = notebooks["04_plot"]
    table = scores.read_csv(ROOT / plot.figures / "scores.csv")
    for p in notebooks.values():
        if isinstance(p, Finetune):
            model = scores.model_of(p.variant)
            base = scores.name_of(scores.student_of(model), "base")
            is_ours = (table.model == model) & (table.seed == p.training_seed)
            rows = table[is_ours | (table.model == base)]
            summary = scores.summary(rows, over_generations=plot.over_generations)
            words = {"table": markdown(scores.spread(summary)), **plot.model_dump()}
            model_card.write(p, RESULTS.format(**words))
