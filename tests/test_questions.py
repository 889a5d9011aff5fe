"""The ten questions of docs/questions.md, as shown there, on both databases after a night of all vendors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Night, settle
from databases import DATABASES, databases, point
from sandbox_process import start_sandbox

PAGE = Path(__file__).resolve().parent.parent / "docs" / "questions.md"


def questions() -> list[tuple[str, str]]:
    """The line before each block of SQL and the SQL."""
    return re.findall(r"^(\S[^\n]*)\n\n```sql\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def nights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Night]]:
    """A night of all vendors on each database."""
    with start_sandbox("--scale", "0.05") as sandbox, databases(*DATABASES) as urls:
        found = {}
        for name, url in urls.items():
            found[name] = point(settle(Night(home=tmp_path_factory.mktemp(name)), sandbox), url)
            assert found[name].run().code == 0
        yield found


def test_there_are_ten_of_them() -> None:
    assert len(questions()) == 10
    assert all(question.endswith("?") for question, _ in questions())


@pytest.mark.parametrize("database", DATABASES)
@pytest.mark.parametrize("question,sql", questions(), ids=lambda text: text.strip()[:40] if "\n" not in text else "sql")
def test_a_question_is_answered(nights: dict[str, Night], database: str, question: str, sql: str) -> None:
    ran = nights[database].main("sql", sql, "--json")
    assert ran.code == 0, ran.err
    assert len(ran.json) > 0, question  # type: ignore[arg-type]


@pytest.mark.parametrize("question,sql", questions(), ids=lambda text: text.strip()[:40] if "\n" not in text else "sql")
def test_both_databases_answer_as_many_rows(nights: dict[str, Night], question: str, sql: str) -> None:
    answers = [nights[name].main("sql", sql, "--json") for name in DATABASES]
    assert {answer.code for answer in answers} == {0}
    assert len({len(answer.json) for answer in answers}) == 1, question
