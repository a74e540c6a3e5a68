"""The page of pipelines says what the tests expect."""

from tests.matrix.table import PAGE, table


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == table(), "python -m tests.matrix.table writes it"
