"""`make serve-check`: what it finds of a server, and the YAML that follows."""

import pytest

from bench import serve_check
from helpers.errors import UserError
from tests.faults.server import Server


def test_the_table_and_the_yaml_of_a_server_that_runs(capsys):
    with Server() as server:  # its text follows from the body; it reads no schema
        serve_check.main("", server.url, "gpt")
    table, yaml = capsys.readouterr().out.split("\n\n")
    rows = dict(line.strip("| ").split(" | ") for line in table.splitlines()[2:])
    assert rows["n = 3"] == "3 of 3, 3 different"
    assert rows["the same seed twice"] == "the same text; another seed: another text"
    assert rows["JSON schema"].startswith("ignored")
    assert rows["a wrong name"].startswith("answered all the same")
    assert float(rows["answers a second, 64 at once"]) > 0
    for line in ("takes_seed: true", "takes_n: true", "json_schema: false", "concurrency: "):
        assert line in yaml


def test_a_server_that_refuses_everything_is_a_sentence():
    with Server({"400": 1.0}) as server, pytest.raises(UserError, match=r"refuses|does not serve"):
        serve_check.main("", server.url, "gpt")


@pytest.mark.parametrize(
    ("text", "is_verdict"),
    [('{"point": 1}', True), ('{"point": 2}', False), ('{"a": 1}', False), ("1", False), ("", 0)],
)
def test_a_verdict_that_fits_the_schema(text, is_verdict):
    assert serve_check.fits(text) == is_verdict


def test_a_server_whose_answers_are_all_empty_is_a_sentence():
    with (
        Server(say=lambda body, i: "") as server,
        pytest.raises(UserError, match="every answer was empty"),
    ):
        serve_check.main("", server.url, "gpt")
