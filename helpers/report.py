"""Makes `report.html`, one self-contained page, from a profile's executed 04_plot notebook."""

import sys
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter

from helpers import paths
from helpers.params import load_profile

STYLE = """
body { font: 16px/1.5 Georgia, serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.2rem; }
table { border-collapse: collapse; border: 0; margin: 1rem 0; font: 13px/1.4 system-ui, sans-serif; display: block; overflow-x: auto; }
th, td { padding: .25rem .6rem; border: 0; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
img, svg { max-width: 100%; height: auto; }
pre { white-space: pre-wrap; font-size: 13px; background: #f6f6f6; padding: .6rem; }
.prompt, .anchor-link, .jp-InputArea { display: none; }
@media print { body { max-width: none; } }
"""


def render(notebook: nbformat.NotebookNode, world: str) -> str:
    """The notebook's prose and results as a page that loads nothing from anywhere; `world` says what its numbers are from."""
    exporter = HTMLExporter(template_name="basic", exclude_input=True, embed_images=True)
    body, _ = exporter.from_notebook_node(notebook)
    meta = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head = f"{meta}<title>Skill composition from examples</title><style>{STYLE}</style>"
    opening = f"<p><strong>This run: {world}.</strong></p>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n{opening}\n{body}\n</body></html>\n'


def main(profile: str) -> Path:
    """Write the report beside the profile's figures."""
    p = load_profile(profile)["04_plot"]
    notebook = nbformat.read(paths.run(profile) / "04_plot.ipynb", as_version=4)
    target = paths.ROOT / p.figures / "report.html"
    target.write_text(render(notebook, p.world), encoding="utf-8")
    return target


if __name__ == "__main__":
    print(f"report in {main(*sys.argv[1:]).relative_to(paths.ROOT)}", file=sys.stderr)
