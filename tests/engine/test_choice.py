"""Which offer is tried next."""

from __future__ import annotations

from dstack_jupyter.engine.steps.choice import MOST_TRIES, Choice, Try, choose, left, nothing_left
from dstack_jupyter.models.offers import OfferView


def offer(region: str, kind: str = "big", backend: str = "sim", availability: str = "available") -> OfferView:
    return OfferView(
        backend=backend, region=region, instance_type=kind, cpus=2, memory_gb=8, disk_gb=100, price=1.0, spot=False,
        cpu_arch="x86", availability=availability,
    )  # fmt: skip


A, B, C = offer("a"), offer("b"), offer("a", backend="other")


def failed(of: OfferView, verdict: str = "offer") -> Try:
    return Try(of, alive=False, verdict=verdict, message="no capacity")


def test_what_failed_is_not_tried_again() -> None:
    assert choose([A, B], []) == Choice(A)
    assert choose([A, B], [failed(A)]) == Choice(B)
    assert choose([A, B], [failed(A), failed(B)]) == Choice()


def test_a_wrong_key_closes_every_offer_of_its_backend() -> None:
    assert left([A, B, C], [failed(A, "account")]) == [C]


def test_what_is_known_to_be_sold_out_is_not_tried() -> None:
    assert left([offer("a", availability="no_quota"), B], []) == [B]


def test_no_more_than_25_offers_are_tried() -> None:
    many = [offer(f"r{number}") for number in range(40)]
    assert choose(many, [failed(each) for each in many[: MOST_TRIES - 1]]).offer is not None
    assert choose(many, [failed(each) for each in many[:MOST_TRIES]]) == Choice()


def test_nodes_stay_in_one_region_and_move_together() -> None:
    near = offer("a", "small")
    assert choose([B, A, near], [Try(A, alive=True)], nodes=2) == Choice(A)
    assert choose([B, A, near], [Try(A, alive=True), failed(A)], nodes=2) == Choice(near)
    moving = choose([B, A], [Try(A, alive=True), failed(A)], nodes=2)
    assert moving.offer is None
    assert "in a" in moving.release
    assert choose([A], [Try(A, alive=True), failed(A)], nodes=2) == Choice()


def test_the_user_is_told_what_was_tried_and_what_came_of_it() -> None:
    told = nothing_left([failed(A), failed(B)], ["local: too small"])
    assert told == "none of the 2 offers that were tried could be had: 2 × no capacity; local: too small"
    assert nothing_left([], ["x: y"]) == "no offer fits (x: y)"
