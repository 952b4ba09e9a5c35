"""Composition and route strings, both ways."""

import pytest

from fdi_lib.core.decision import Decision, parse_composition, parse_route
from fdi_lib.core.order import in_order_of_damage, in_order_of_repair


@pytest.mark.parametrize(
    ("adapters", "mode", "composition", "route"),
    [
        ((), "progressive", "", ""),
        ((("noise", 1.0),), "progressive", "noise:1.00", "noise"),
        ((("haze", 0.62), ("noise", 0.38)), "composite", "haze:0.62+noise:0.38", "haze+noise"),
        ((("noise", 1.0), ("haze", 1.0)), "progressive", "noise:1.00>haze:1.00", "noise>haze"),
    ],
)
def test_strings_are_the_contracts_and_read_back(adapters, mode, composition, route):
    decision = Decision("mixture", adapters, mode)
    assert (decision.composition, decision.route) == (composition, route)
    parsed, parsed_mode = parse_composition(composition)
    assert parsed == adapters
    assert parsed_mode == mode or len(adapters) < 2
    assert parse_route(route) == tuple(n for n, _ in adapters)


@pytest.mark.parametrize("text", ["noise", "noise:", ":1.00", "noise:x"])
def test_what_is_no_composition_is_refused(text):
    with pytest.raises(ValueError):
        parse_composition(text)


def test_repair_undoes_the_last_damage_first():
    assert in_order_of_damage(["jpeg", "scratch", "noise", "haze"]) == ["haze", "noise", "scratch", "jpeg"]
    assert in_order_of_repair(["haze", "noise"]) == ["noise", "haze"]
    assert in_order_of_damage(["jpeg", "our_mould", "noise"]) == ["noise", "our_mould", "jpeg"]
