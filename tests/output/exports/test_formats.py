import pytest

from nccleaner.output.exports.formats import portion_names


@pytest.mark.parametrize("pairs", [1, 4, 5, 9])
def test_portions_are_numbered_without_gaps(pairs: int) -> None:
    names = portion_names(pairs, 4)
    assert names == [f"{number:05d}" for number in range(len(names))]
    assert 4 * (len(names) - 1) < pairs <= 4 * len(names)


def test_names_sort_as_numbers_do_however_many() -> None:
    assert portion_names(100_000, 1)[-1] == "99999"
    names = portion_names(100_001, 1)
    assert names == sorted(names)
    assert (names[0], names[-1]) == ("000000", "100000")
