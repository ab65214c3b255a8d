"""ZenML's database being away: one line instead of a page, and training without an alerter."""

import sqlite3

import pytest
from sqlalchemy.exc import DatabaseError

from llm_twin.ct import zen
from llm_twin.errors import CorpusError
from llm_twin.settings import Settings


def failing_step():
    try:
        raise DatabaseError("SELECT 1", None, sqlite3.DatabaseError("file is not a database"))
    except DatabaseError as error:
        raise RuntimeError("the step failed") from error


def test_what_the_database_says_is_one_line(tmp_path):
    with pytest.raises(zen.StoreDead) as caught, zen.store_errors(Settings(home=tmp_path)):
        failing_step()
    assert str(caught.value) == (
        f"ZenML's database cannot be used (file is not a database): {tmp_path}/zenml. Move that"
        " folder away and type: invoke ct. The promoted twin stays"
    )


@pytest.mark.parametrize("error", [ValueError("boom"), CorpusError("nothing is left")])
def test_other_errors_stay_what_they_are(tmp_path, error):
    with pytest.raises(type(error)) as caught, zen.store_errors(Settings(home=tmp_path)):
        raise error
    assert caught.value is error


def test_training_goes_on_without_an_alerter(tmp_path, monkeypatch, capsys):
    def fail(_: Settings) -> str:
        raise RuntimeError("with an address in it")

    monkeypatch.setattr(zen, "set_up_alerter", fail)
    zen.use_alerter(Settings(home=tmp_path))
    assert capsys.readouterr().err == ""
    zen.use_alerter(Settings(home=tmp_path, alert_urls="team=json://127.0.0.1:9/x"))
    assert capsys.readouterr().err == "warning: ZenML got no alerter: RuntimeError\n"
