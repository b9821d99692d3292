"""The key-value cache on its own; with a decoder it is tested in models/test_paligemma.py."""

from __future__ import annotations

import torch

from heliodor.nn.cache import KVCache


def slots(first: int, count: int, rows: int = 2) -> torch.Tensor:
    """[B 1 T 1], each value telling its row (hundreds) and its slot."""
    row = torch.arange(rows).view(-1, 1, 1, 1) * 100
    return (row + torch.arange(first, first + count).view(1, 1, -1, 1)).float()


def prefilled(valid: list[list[bool]]) -> KVCache:
    mask = torch.tensor(valid)
    cache = KVCache(mask)
    for layer in range(2):
        filled = slots(0, mask.shape[1], len(valid)) + layer * 1000
        cache.append(layer, filled, -filled)
    cache.advance(mask.shape[1])
    return cache


def addresses(cache: KVCache) -> list[int]:
    """Where everything lies that a step writes to."""
    stores = (*cache._keys, *cache._values)
    return [cache._valid.data_ptr()] + [p.data_ptr() for store in stores for p in store.parts]


def step(cache: KVCache) -> tuple[torch.Tensor, torch.Tensor]:
    """One more slot in both layers -> keys and values of the second."""
    rows = cache.valid.shape[0]
    cache.begin_step()
    cache.append(0, slots(cache.length, 1, rows), -slots(cache.length, 1, rows))
    new = slots(cache.length, 1, rows) + 1000
    k, v = cache.append(1, new, -new)
    cache.advance(1)
    return k, v


FULL = [[True, True, True], [True, True, True]]
RAGGED = [[True, True, True], [False, False, True]]


def test_slots_stay_in_order_past_a_block_of_sixty_four() -> None:
    cache = prefilled(FULL)
    for count in range(4, 140):
        k, v = step(cache)
        assert torch.equal(k, slots(0, count) + 1000)
        assert torch.equal(v, -k)
    assert cache.length == 139


def test_positions_count_valid_slots_alone() -> None:
    cache = prefilled(RAGGED)
    assert cache.positions.tolist() == [3, 1]
    assert cache.begin_step().tolist() == [[3], [1]]
    assert cache.begin_step().tolist() == [[4], [2]]
    assert cache.positions.tolist() == [5, 3]


def test_every_slot_knows_the_position_of_what_it_holds() -> None:
    cache = prefilled([[True, False, True], [False, False, True], [True, True, True]])
    step(cache)
    places = cache.places
    assert places[cache.valid].tolist() == [0, 1, 2, 0, 1, 0, 1, 2, 3]
    assert places.shape == (3, 4)
    assert cache.select(torch.tensor([1])).places[0, 2:].tolist() == [0, 1]


def test_new_slots_are_valid_in_every_row() -> None:
    cache = prefilled(RAGGED)
    step(cache)
    mask = cache.mask
    assert mask is not None
    assert mask[:, 0, 0].tolist() == [[True, True, True, True], [False, False, True, True]]


def test_nothing_is_masked_where_all_slots_are_valid() -> None:
    cache = prefilled(FULL)
    step(cache)
    assert cache.mask is None


def test_reserved_slots_are_written_without_growing() -> None:
    cache = prefilled(FULL)
    cache.reserve(5)
    places = addresses(cache)
    for count in range(4, 9):
        k, _ = step(cache)
        assert torch.equal(k, slots(0, count) + 1000)
    assert addresses(cache) == places
    k, _ = step(cache)
    assert torch.equal(k, slots(0, 9) + 1000)


def test_reserving_less_than_there_is_changes_nothing() -> None:
    cache = prefilled(FULL)
    step(cache)
    before = cache._keys[0].room
    cache.reserve(1)
    assert cache._keys[0].room == before


def test_selected_rows_are_copies_that_go_their_own_way() -> None:
    cache = prefilled(RAGGED)
    step(cache)
    chosen = cache.select(torch.tensor([1, 0, 1]))
    assert chosen.positions.tolist() == [2, 4, 2]
    assert chosen.length == 4
    k, _ = step(chosen)
    assert k[:, 0, 0, 0].tolist() == [1100, 1000, 1100]
    assert k[:, 0, 4, 0].tolist() == [1004, 1104, 1204]
    assert cache.length == 4
    assert cache.positions.tolist() == [4, 2]
    before, _ = step(cache)
    assert before[:, 0, 4, 0].tolist() == [1004, 1104]
    mask = chosen.mask
    assert mask is not None
    assert mask.shape == (3, 1, 1, 5)


# ------------------------------------------------------------------------------------- rollbacks


def fill(cache: KVCache, count: int) -> torch.Tensor:
    """``count`` slots in one pass -> keys of the second layer, a number telling each one's slot."""
    rows = cache.valid.shape[0]
    cache.begin_step(count)
    k = torch.empty(0)
    for layer in range(2):
        new = slots(cache.length, count, rows) + 1000 * layer
        k, _ = cache.append(layer, new, -new)
    cache.advance(count)
    return k


def test_several_slots_open_at_following_positions() -> None:
    cache = prefilled(RAGGED)
    assert cache.begin_step(3).tolist() == [[3, 4, 5], [1, 2, 3]]
    assert cache.positions.tolist() == [6, 4]


def test_new_slots_see_themselves_and_what_came_before() -> None:
    cache = prefilled(RAGGED)
    fill(cache, 2)
    sight = cache.sight(2)
    assert sight is not None
    assert sight[:, 0].int().tolist() == [
        [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]],
        [[0, 0, 1, 1, 0], [0, 0, 1, 1, 1]],
    ]
    whole = prefilled(FULL)
    fill(whole, 2)
    both = whole.sight(2)
    assert both is not None
    assert both[0, 0].int().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert whole.sight(1) is None


def test_a_truncated_cache_goes_on_where_it_was_cut() -> None:
    cache = prefilled(RAGGED)
    fill(cache, 4)
    cache.truncate(4)
    assert (cache.length, cache.positions.tolist()) == (4, [4, 2])
    cache.truncate(2)
    assert cache.positions.tolist() == [2, 0]  # the second row's two slots were padding
    assert fill(cache, 1)[0, 0, :, 0].tolist() == [1000, 1001, 1002]


def test_rows_may_keep_different_numbers_of_new_slots() -> None:
    cache = prefilled(RAGGED)
    fill(cache, 4)
    cache.retain([1, 3], 4)
    assert cache.length == 6
    assert cache.valid.int().tolist() == [[1, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1]]
    assert cache.positions.tolist() == [4, 4]
    assert fill(cache, 1)[1, 0, :, 0].tolist() == [1100, 1101, 1102, 1103, 1104, 1105, 1106]
    assert cache.places[:, -1].tolist() == [4, 4]
    assert cache.positions.tolist() == [5, 5]


def test_rows_that_keep_the_same_leave_no_gap() -> None:
    cache = prefilled(FULL)
    fill(cache, 4)
    cache.retain([2, 2], 4)
    assert cache.mask is None
    assert cache.positions.tolist() == [5, 5]
    cache.retain([0, 0], 2)
    assert (cache.length, cache.positions.tolist()) == (3, [3, 3])
