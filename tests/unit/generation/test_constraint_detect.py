"""The grammar of boxes: whatever the logits, the text is well formed; duplicates end the row."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.decoding import iou, objects
from tests.unit.generation.grammars import (
    EOS,
    LOC,
    NAMES,
    SEG,
    SEPARATOR,
    VOCABULARY,
    Noise,
    allowed,
    box,
    grammar,
    push,
    run,
    text,
)

from heliodor.errors import InputError
from heliodor.generation import Finish, Greedy, Plan, Temperature, generate

# -------------------------------------------------------------------------------- properties


@given(
    seed=st.integers(0, 2**31),
    segments=st.booleans(),
    empty=st.booleans(),
    ordered=st.booleans(),
    duplicates=st.sampled_from([None, 0.5, 0.9]),
    limit=st.integers(1, 5),
    eager=st.sampled_from([-9.0, 0.0, 9.0]),
)
@settings(max_examples=120, deadline=None)
def test_any_logits_give_well_formed_objects_of_the_asked_labels(
    *,
    seed: int,
    segments: bool,
    empty: bool,
    ordered: bool,
    duplicates: float | None,
    limit: int,
    eager: float,
):
    rule = grammar(
        seg_start=SEG if segments else None,
        allow_empty=empty,
        ordered=ordered,
        duplicate_iou=duplicates,
        max_objects=limit,
    )
    row = run(rule, seed=seed, taste={EOS: eager})
    found = objects(text(row.tokens))
    assert row.finish is not Finish.LENGTH  # the limit on objects was the only one
    assert (row.tokens[-1:] == (EOS,)) == (row.finish is Finish.STOP)
    assert (0 if empty else 1) <= len(found) <= limit
    for corners, segs, label in found:
        assert label in NAMES
        assert segs == (16 if segments else 0)
        assert not ordered or (corners[2] >= corners[0] and corners[3] >= corners[1])
    if duplicates is not None and ordered:
        for (one, _, label), (other, _, name) in itertools.combinations(found, 2):
            assert label != name or iou(one, other) < duplicates


@given(seed=st.integers(0, 2**31), length=st.integers(1, 60), segments=st.booleans())
@settings(max_examples=80, deadline=None)
def test_a_cut_leaves_a_prefix_of_a_well_formed_answer(*, seed: int, length: int, segments: bool):
    rule = grammar(seg_start=SEG if segments else None, duplicate_iou=None)
    row = run(rule, seed=seed, length=length)
    walk = push(rule, row.tokens)
    rest: list[int] = []
    while not walk.done:  # end it as soon as the grammar lets us: eos if allowed, else the first
        ids = walk.allowed()
        assert ids is not None
        assert len(ids) > 0
        token = EOS if EOS in ids.tolist() else int(ids[0])
        walk.push(token)
        rest.append(token)
    assert len(rest) <= 4 + 16 + 2 + 2  # the object under way, or one more after a separator
    assert all(label in NAMES for *_, label in objects(text((*row.tokens, *rest))))


@given(seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_every_allowed_token_leads_on(seed: int):
    """Walk at random over ids, without logits: never a state that allows nothing."""
    pick = torch.Generator().manual_seed(seed)
    walk = grammar(seg_start=SEG).start()
    while not walk.done:
        ids = walk.allowed()
        assert ids is not None
        assert len(ids) == len(set(ids.tolist())) > 0
        walk.push(int(ids[torch.randint(len(ids), (1,), generator=pick)]))


# ------------------------------------------------------------------------------- what may come


def test_an_answer_opens_with_a_box_or_with_nothing():
    everything = list(range(LOC, LOC + 1024))
    assert sorted(allowed(grammar(), [])) == [EOS, *everything]
    assert allowed(grammar(allow_empty=False), []) == everything


def test_nothing_found_is_done_at_once():
    assert push(grammar(), [EOS]).done


def first_token(nothing: float, sampler: Greedy | Temperature, seed: int = 0) -> int:
    """The first token where eos has the given probability and 1024 places share the rest."""
    logits = torch.full((1, VOCABULARY), -torch.inf)
    logits[0, EOS] = torch.tensor(nothing).log()
    logits[0, LOC : LOC + 1024] = torch.tensor((1 - nothing) / 1024).log()
    plan = Plan(max_new_tokens=1, stop=frozenset({EOS}), sampler=sampler)
    model = Noise(0)
    generator = torch.Generator().manual_seed(seed)
    (found,) = generate(model, logits, model, plan, constraints=[grammar()], generator=generator)
    return found.tokens[0]


def test_nothing_has_to_be_likelier_than_all_places_together():
    """At 0.4 each place has 0.0006: the likeliest token is eos, and yet something is there."""
    assert first_token(0.4, Greedy()) in range(LOC, LOC + 1024)
    assert first_token(0.6, Greedy()) == EOS


def test_a_sampler_draws_nothing_as_often_as_it_is_likely():
    drawn = [first_token(0.4, Temperature(1.0), seed) == EOS for seed in range(300)]
    assert abs(sum(drawn) / 300 - 0.4) < 4 * (0.4 * 0.6 / 300) ** 0.5  # four standard errors


def test_only_the_first_place_has_a_rival():
    assert push(grammar(), []).rival() == EOS
    assert push(grammar(), box(1, 2, 3, 4)[:1]).rival() is None
    assert push(grammar(), [*box(1, 2, 3, 4), 10, *SEPARATOR]).rival() is None
    assert push(grammar(allow_empty=False), []).rival() is None


def test_the_second_object_cannot_be_nothing():
    assert EOS not in allowed(grammar(), [*box(0, 0, 9, 9), 10, *SEPARATOR])


def test_far_edges_start_at_the_near_ones():
    assert allowed(grammar(), box(40, 900, 0, 0)[:2]) == list(range(LOC + 40, LOC + 1024))
    assert allowed(grammar(), box(40, 900, 60, 0)[:3]) == list(range(LOC + 900, LOC + 1024))
    assert allowed(grammar(ordered=False), box(40, 900, 60, 0)[:3]) == list(range(LOC, LOC + 1024))
    assert allowed(grammar(), box(1023, 1023, 0, 0)[:2]) == [LOC + 1023]


def test_labels_follow_the_box_and_sixteen_seg_when_asked_for():
    corners = box(1, 2, 3, 4)
    assert allowed(grammar(), corners) == [10, 11, 13]
    masked = grammar(seg_start=SEG)
    for given_ in range(16):
        assert allowed(masked, [*corners, *[SEG + 5] * given_]) == list(range(SEG, SEG + 128))
    assert allowed(masked, [*corners, *[SEG + 5] * 16]) == [10, 11, 13]


def test_a_label_goes_on_ends_or_makes_way_for_the_next_object():
    corners = box(1, 2, 3, 4)
    assert allowed(grammar(), [*corners, 10]) == [EOS, 20]
    assert allowed(grammar(), [*corners, 11]) == [EOS, 12, 20]
    assert allowed(grammar(), [*corners, 13]) == [14]
    assert allowed(grammar(), [*corners, 10, 20]) == [21]


def test_the_last_object_is_followed_by_eos_alone():
    assert allowed(grammar(max_objects=1), [*box(1, 2, 3, 4), 10]) == [EOS]
    assert allowed(grammar(max_objects=1), [*box(1, 2, 3, 4), 11]) == [EOS, 12]


def test_a_separator_that_opens_like_the_next_word_of_a_label_is_told_apart():
    """A small vocabulary may write "ice cream" as ice, space, cream; " ; " as space, ;, space."""
    rule = grammar(labels=((11,), (11, 21, 12)), separator=(21, 20, 21))
    corners = box(1, 2, 3, 4)
    assert allowed(rule, [*corners, 11, 21]) == [12, 20]
    assert allowed(rule, [*corners, 11, 21, 12]) == [EOS, 21]
    assert allowed(rule, [*corners, 11, 21, 20]) == [21]


def test_boxes_without_labels_are_the_empty_label():
    rule = grammar(labels=((),), seg_start=SEG, max_objects=3)
    row = run(rule, seed=3, taste={20: 60.0})
    found = objects(text(row.tokens))
    assert [label for *_, label in found] == ["", "", ""]
    assert allowed(rule, [*box(1, 2, 3, 4), *[SEG] * 16]) == [EOS, 20]


def test_rows_may_share_a_grammar():
    rule = grammar()
    one, other = rule.start(), rule.start()
    for token in [*box(1, 2, 3, 4), 10, EOS]:
        one.push(token)
    assert one.done
    assert not other.done
    ids = other.allowed()
    assert ids is not None
    assert len(ids) == 1025


def test_logits_that_want_only_eos_still_finish_the_object():
    row = run(grammar(allow_empty=False), taste={EOS: 50.0})
    assert len(objects(text(row.tokens))) == 1


# ----------------------------------------------------------------------------------- duplicates

ONE = [*box(100, 100, 200, 200), 10]
NEAR = box(100, 100, 200, 195)  # intersection over union 0.95
FAR = box(100, 100, 200, 180)  # 0.80


def test_a_near_copy_of_the_same_label_ends_the_row_and_is_surplus():
    walk = push(grammar(), [*ONE, *SEPARATOR, *NEAR, 10, *SEPARATOR])
    assert walk.done
    assert walk.surplus == len([*SEPARATOR, *NEAR, 10, *SEPARATOR])


def test_a_near_copy_that_ends_in_eos_is_surplus_too():
    walk = push(grammar(), [*ONE, *SEPARATOR, *NEAR, 10, EOS])
    assert walk.done
    assert walk.surplus == len([*SEPARATOR, *NEAR, 10, EOS])


def test_with_one_label_the_copy_is_noticed_before_its_label():
    walk = push(grammar(labels=((10,),), seg_start=SEG), [*ONE[:4], *[SEG] * 16, 10, *SEPARATOR])
    for token in NEAR:
        assert not walk.done
        walk.push(token)
    assert walk.done
    assert walk.surplus == len([*SEPARATOR, *NEAR])


@pytest.mark.parametrize(
    ("second", "limit"),
    [([*NEAR, 11], 0.9), ([*FAR, 10], 0.9), ([*NEAR, 10], 0.96), ([*ONE[:4], 10], None)],
    ids=["another label", "too far", "a higher limit", "no limit"],
)
def test_other_boxes_go_on(second: list[int], limit: float | None):
    walk = push(grammar(duplicate_iou=limit), [*ONE, *SEPARATOR, *second, *SEPARATOR])
    assert not walk.done
    assert walk.surplus == 0


def test_an_overlap_of_exactly_the_limit_is_a_copy():
    assert push(grammar(duplicate_iou=0.8), [*ONE, *SEPARATOR, *FAR, 10, *SEPARATOR]).done


def test_boxes_without_area_are_copies_only_of_themselves():
    line = [*box(5, 5, 5, 9), 10]
    rule = grammar()
    assert push(rule, [*line, *SEPARATOR, *line, *SEPARATOR]).done
    assert not push(rule, [*line, *SEPARATOR, *box(5, 5, 5, 10), 10, *SEPARATOR]).done


def test_a_decoded_duplicate_leaves_no_trace_in_the_output():
    taste = dict.fromkeys([*ONE[:1], *SEPARATOR], 60.0) | {LOC + 150: 50.0}
    model = Noise(0, taste)
    plan = Plan(max_new_tokens=100, stop=frozenset({EOS}), sampler=Greedy())
    first = model.step(torch.zeros(1, dtype=torch.int64), None)
    rule = grammar(labels=((10,),), allow_empty=False)
    (row,) = generate(model, first, model, plan, constraints=[rule])
    assert text(row.tokens) == "<loc0100><loc0100><loc0100><loc0100> bee"
    assert row.finish is Finish.CONSTRAINT
    assert len(row.logprobs) == len(row.tokens) == 5


# ---------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ()}, r"0 labels and a separator of 2 tokens"),
        ({"separator": ()}, r"4 labels and a separator of 0 tokens"),
        ({"max_objects": 0}, r"max_objects=0; it must be at least 1"),
        ({"duplicate_iou": 0.0}, r"duplicate_iou=0.0; it must be above 0"),
        ({"labels": ((10,), (LOC + 3,))}, r"label 1 is \(103,\), which contains a <loc>"),
        ({"labels": ((SEG,),), "seg_start": SEG}, r"label 0 is \(1200,\), which contains a <loc>"),
        ({"labels": ((10, EOS),)}, r"label 0 .* eos token"),
        ({"separator": (20, LOC)}, r"the separator is \(20, 100\)"),
        ({"labels": ((10,), (10, 20, 21, 11))}, r"labels that do not contain the separator"),
        ({"labels": ((10, 20, 21, 11), (10,))}, r"labels that do not contain the separator"),
    ],
)
def test_grammars_that_cannot_work_are_refused(changes: dict[str, object], message: str):
    with pytest.raises(InputError, match=message):
        grammar(**changes)


def test_the_same_label_twice_is_one_label():
    rule = grammar(labels=((10,), (10,)))
    assert push(rule, [*ONE, *SEPARATOR, *NEAR]).done  # known before the label, as with one label


@pytest.mark.parametrize(
    ("tokens", "wrong"),
    [([], 10), (ONE[:2], LOC + 99), (ONE[:4], 12), (ONE, 21), ([*ONE, *SEPARATOR], EOS)],
)
def test_a_token_that_is_not_allowed_is_refused(tokens: list[int], wrong: int):
    walk = push(grammar(), tokens)
    with pytest.raises(InputError, match=rf"token {wrong} is not allowed here; expected one of"):
        walk.push(wrong)
