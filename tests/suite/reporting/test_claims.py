"""Pages with numbers that are filled in, and claims that must hold."""

from typing import Any

import pytest

from diffusion_dfl.errors import UserError
from diffusion_dfl.suite.reporting.claims import render


def filled(text: str, values: dict[str, Any]) -> str:
    return render("audit", values, text)


def test_a_number_without_a_source_is_refused() -> None:
    assert filled("a {b:.2f} c {{}}", {"b": 1.0}) == "a 1.00 c {}"
    with pytest.raises(UserError, match=r"no number for power\.x; there are power\.y"):
        filled("{power.x:.3f}", {"power.y": 1.0, "other": 2.0})


def test_a_claim_that_does_not_hold_is_refused() -> None:
    values = {"power.a b": 1.0, "power.c": 2.0}
    assert filled("{?power.a b < power.c}{?-0.5 < power.a b > 0}so it is", values) == "so it is"
    for claim in ("power.a b > power.c", "0 < power.a b < 1", "power.c < power.c"):
        with pytest.raises(UserError, match=f"audit: {claim} does not hold .* write the sentence"):
            filled(f"{{?{claim}}}so it is", values)
    with pytest.raises(UserError, match=r"no number for power\.x"):
        filled("{?power.x < 1}", values)
    assert filled("{? power.c > .5 }{?power.c < 1e3}", values) == ""
    with pytest.raises(UserError, match=r"power\.c is no claim"):
        filled("{?power.c}", values)
    for text in ("{power.c", "{power.c:x}"):
        with pytest.raises(UserError, match="a format in it is damaged"):
            filled(text, values)
