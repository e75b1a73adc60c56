from __future__ import annotations

import pytest

from tests.masks import make_mask


def test_a_mask_is_its_own_unless_it_says_whose_labels_it_has() -> None:
    assert make_mask(4).same_as is None
    assert make_mask(4, same_as=3).same_as == 3


@pytest.mark.parametrize("same_as", [4, 5, -1])
def test_a_mask_cannot_have_the_labels_of_a_later_one(same_as: int) -> None:
    with pytest.raises(ValueError, match=r"Mask\.same_as: must be from 0 to below seq 4; is"):
        make_mask(4, same_as=same_as)
