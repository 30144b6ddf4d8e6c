import pytest

from pmpjax.runs.errors import first_line, nearest


@pytest.mark.parametrize("text", ["a\nb", "  a  \n", "a" * 1000, "", "\n\n", "é\r\nb"])
def test_a_message_is_one_short_line_of_the_error(text):
    found = first_line(OSError(text), 50)
    assert found and "\n" not in found and len(found) <= 50
    assert found in text or found == "OSError"


def test_the_nearest_name_is_one_of_the_known_and_an_unlike_one_has_none():
    known = ["dsir", "rho-loss", "influence"]
    for name in known:
        assert nearest(name, known) == nearest(name[:-1], known) == name
    assert nearest("zzzz", known) is None and nearest("dsir", []) is None
