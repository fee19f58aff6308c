"""A cohort's sum is exact or not there, and nothing but the sum depends on a member's numbers."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shamirs
from common.cohorts import LARGEST, Cohort, random_values, session
from hypothesis import given, settings
from hypothesis import strategies as st

from fwdllm_common.errors import BadInputError, IntegrityError, NotAllowedError
from fwdllm_common.secure_aggregation import (
    Advertisement,
    Aggregation,
    Member,
    NotEnoughMembersError,
    PublicKeys,
    Session,
    Unmasking,
    peers_of_all,
    primitives,
    threshold,
)
from fwdllm_common.secure_aggregation.cohort import FEWEST_MEMBERS, MAX_MEMBERS, MAX_PEERS

GOLDEN = json.loads((Path(__file__).parent / "secure_aggregation.json").read_text())
STEPS = 4


def roots(count, name="root"):
    return [hashlib.sha256(f"{name} {number}".encode()).digest() for number in range(count)]


def run(cohort, last_steps):
    """Let each member take part up to its last step, 0 to 4."""
    for step, act in enumerate((cohort.advertise, cohort.share, cohort.mask, cohort.unmask), start=1):
        act([number for number, last in enumerate(last_steps, start=1) if last >= step])


def sum_of(cohort, last_steps):
    run(cohort, last_steps)
    return cohort.coordinator.sum()


# All drop-out patterns.


def is_enough(last_steps):
    """Whether the peers that are left at each step restore every secret that the sum needs."""
    taking_part = [sum(last >= step for last in last_steps) for step in range(1, STEPS + 1)]
    # A secret of a member that is itself left needs so many others.
    return min(taking_part) >= FEWEST_MEMBERS and min(taking_part[1:]) - 1 >= threshold(taking_part[0] - 1)


@pytest.mark.parametrize("last_steps", list(itertools.combinations_with_replacement(range(STEPS + 1), 5)))
def test_the_sum_is_exact_or_refused_for_every_drop_out(last_steps):
    values = random_values(5, 3)
    cohort = Cohort(values, least=3)
    if not is_enough(last_steps):
        with pytest.raises((NotEnoughMembersError, NotAllowedError, BadInputError)):
            sum_of(cohort, last_steps)
        return
    is_in = np.array(last_steps) >= 3
    np.testing.assert_array_equal(sum_of(cohort, last_steps), values[is_in].sum(axis=0))


@settings(max_examples=25, deadline=None)
@given(data=st.data(), count=st.integers(8, 20), seed=st.integers(0, 1000))
def test_drop_outs_up_to_the_threshold_change_nothing(data, count, seed):
    most = count - 1 - threshold(count - 1)
    gone = data.draw(st.lists(st.tuples(st.integers(0, count - 1), st.integers(1, 3)), max_size=most))
    last_steps = [STEPS] * count
    for place, last in gone:
        last_steps[place] = last
    values = random_values(count, 4, seed)
    cohort = Cohort(values)
    run(cohort, last_steps)
    np.testing.assert_array_equal(cohort.coordinator.sum(), values[np.array(last_steps) >= 3].sum(axis=0))


def test_a_large_cohort_has_a_regular_graph_of_peers():
    peers = peers_of_all(range(300), b"seed")
    assert {len(found) for found in peers.values()} == {MAX_PEERS}
    assert all(member in peers[peer] and peer != member for member, found in peers.items() for peer in found)
    assert peers != peers_of_all(range(300), b"another seed")
    values = random_values(40, 2)
    cohort = Cohort(values, peers=16)
    assert {len(found) for found in cohort.peers.values()} == {16}
    last_steps = [3 if number % 10 == 0 else 2 if number % 17 == 0 else STEPS for number in range(40)]
    run(cohort, last_steps)
    np.testing.assert_array_equal(cohort.coordinator.sum(), values[np.array(last_steps) >= 3].sum(axis=0))


@pytest.mark.parametrize("members", [[1], [1, 1, 2], range(MAX_MEMBERS + 1)], ids=["one", "twice", "too-many"])
def test_what_is_no_cohort_is_refused(members):
    with pytest.raises(BadInputError, match=f"a cohort has 3 to {MAX_MEMBERS} different members"):
        peers_of_all(members, b"")


def test_the_largest_numbers_do_not_overflow():
    values = np.full((9, 2), [LARGEST, -LARGEST], dtype=np.int64)
    cohort = Cohort(values)
    run(cohort, [STEPS] * 9)
    np.testing.assert_array_equal(cohort.coordinator.sum(), values.sum(axis=0))


# What the messages tell.


def transcript(values, own, known=None):
    cohort = Cohort(values, own)
    everybody = cohort.members
    cohort.advertise(everybody)
    cohort.share(everybody, known)
    missing = 4
    cohort.mask(set(everybody) - {missing})
    cohort.unmask(set(everybody) - {missing})
    return cohort


def test_only_the_masked_vectors_depend_on_the_values_and_they_look_random():
    """The values of the two runs have one sum. Whatever is sent is either the same or uniformly distributed."""
    own = roots(8)
    zeros = np.zeros((8, 512), dtype=np.int64)
    values = random_values(8, 512)
    values[0] -= values[[0, 1, 2, 4, 5, 6, 7]].sum(axis=0) % LARGEST
    first = transcript(zeros, own)
    shares = {number: first.sent["shares", number] for number in first.members}
    second = transcript(np.clip(values, -LARGEST, LARGEST), own, shares)
    for step, number in first.sent:
        if step != "masked":
            assert first.sent[step, number] == second.sent[step, number]
    for number in set(first.members) - {4}:
        for cohort in (first, second):
            masked = cohort.sent["masked", number]
            counts = np.bincount(masked.view(np.uint8), minlength=256)
            # χ² of 255 degrees of freedom is below 370 with probability 1 − 3·10⁻⁶; the roots are fixed.
            assert ((counts - 16) ** 2 / 16).sum() < 370
        bits = np.unpackbits((second.sent["masked", number] ^ second.values[number].view(np.uint64)).view(np.uint8))
        assert abs(bits.mean() - 0.5) < 4.5 * 0.5 / np.sqrt(len(bits))


def test_masked_vectors_do_not_correlate_with_the_values():
    """Over many sessions of the same values: the masks of each are its own."""
    values = random_values(4, 64)
    masked = []
    for number in range(40):
        cohort = Cohort(values, roots(4, f"run {number}"), least=2, name=f"session {number}")
        cohort.advertise(cohort.members)
        cohort.share(cohort.members)
        cohort.mask([1])
        masked.append(cohort.sent["masked", 1])
    found = np.stack(masked).view(np.int64).astype(np.float64) / 2**63
    products = found @ (values[0] / LARGEST)
    expected = np.sqrt((values[0] / LARGEST) @ (values[0] / LARGEST) / 3)
    assert abs(products.mean()) < 4.5 * expected / np.sqrt(len(products))
    assert len({row.tobytes() for row in masked}) == len(masked)


def test_nobody_reveals_both_secrets_of_a_peer():
    cohort = transcript(random_values(9, 3), roots(9))
    for number, message in cohort.unmaskings().items():
        assert message.self_masks.keys().isdisjoint(message.masking_keys)
        member = cohort.members[number]
        assert member.unmask(cohort.coordinator.survivors_for(number)) == message
        for other in (set(cohort.members) - {number}, set(cohort.members) - {number, 4, number % 3 + 5}):
            with pytest.raises(NotAllowedError, match="a member unmasks one sum in a session"):
                member.unmask(other)


@pytest.mark.parametrize("peers", range(1, 130))
def test_two_stories_of_who_is_missing_restore_one_secret_at_most(peers):
    """Without members that answer both, no two parts of the peers are large enough."""
    assert 2 * threshold(peers) > peers
    assert 3 * (2 * threshold(peers) - peers) >= peers


def test_a_coordinator_that_forks_its_view_unmasks_nobody():
    """One half of the peers is told that member 9 is in the sum, the other one that it is missing."""
    cohort = Cohort(random_values(9, 3), roots(9))
    run(cohort, [3] * 9)
    stories = {number: set(range(1, 9)) | ({9} if number <= 4 else set()) for number in range(1, 9)}
    found = {number: cohort.members[number].unmask(stories[number] - {number}) for number in stories}
    needed = threshold(8)
    of_masks = {number: answer.self_masks[9] for number, answer in found.items() if 9 in answer.self_masks}
    of_keys = {number: answer.masking_keys[9] for number, answer in found.items() if 9 in answer.masking_keys}
    assert max(len(of_masks), len(of_keys)) < needed
    secret = primitives.joined({number - 1: share for number, share in of_masks.items()})
    assert primitives.commitment(secret, cohort.session.id) != cohort.members[9].advertise().commitment


def test_stories_for_each_member_yield_a_sum_over_fewer_than_each_was_told():
    """The documented limit: nobody of 11 helps with a sum over fewer than 8, and 7 are summed."""
    values = random_values(11, 3)
    cohort = Cohort(values, roots(11), least=8)
    run(cohort, [3] * 11)
    gone, needed = (8, 9, 10, 11), threshold(10)
    left, found = dict.fromkeys(gone, needed), {}
    for number, member in cohort.members.items():
        told = sorted((each for each in gone if each != number), key=lambda each: -left[each])[:3]
        for each in told:
            left[each] -= 1
        found[number] = member.unmask(set(cohort.members) - {number, *told})
    keys = {number: restored(cohort, number, {n: each.masking_keys for n, each in found.items()}) for number in gone}
    here, total = cohort.session, np.zeros(3, dtype=np.uint64)
    for number in range(1, 8):
        secret = restored(cohort, number, {n: each.self_masks for n, each in found.items()})
        total += cohort.sent["masked", number] - primitives.self_mask_words(secret, here.id, 3)
        public = cohort.members[number].advertise().keys.masking
        for other, key in keys.items():  # every number that is left out is larger
            agreement = primitives.agreed(primitives.masking_key(key, here.id), public)
            total -= primitives.pair_mask_words(agreement, here.id, number, other, 3)

    np.testing.assert_array_equal(total.view(np.int64), values[:7].sum(axis=0))


def restored(cohort, number, revealed):
    """The member's secret of the shares that its peers have revealed."""
    peers = cohort.peers[number]
    shares = {place: revealed[peer][number] for place, peer in enumerate(peers) if number in revealed[peer]}
    return primitives.joined(dict(list(shares.items())[: threshold(len(peers))]))


# What a member refuses.


def test_a_cohort_below_the_owners_least_is_refused():
    cohort = Cohort(random_values(7, 3), least=8)
    cohort.advertise(cohort.members)
    with pytest.raises(NotAllowedError, match="a sum over 7 devices, this device takes part in sums over 8 or more"):
        cohort.share([1])


def test_more_peers_than_a_member_has_are_refused():
    """Each costs this device a key agreement and shares that many others have to join."""
    keys = {n: PublicKeys(n.to_bytes(32, "big"), (n + 1000).to_bytes(32, "big")) for n in range(1, MAX_PEERS + 2)}
    with pytest.raises(BadInputError, match="it has 129 peers"):
        Member(session(), 0).share(keys)


def test_a_sum_below_the_owners_least_is_not_unmasked():
    cohort = Cohort(random_values(9, 3), least=9)
    run(cohort, [3] * 8 + [2])
    with pytest.raises(NotAllowedError, match="a sum over 8 devices"):
        cohort.unmask([1])


def test_a_member_masks_one_vector():
    cohort = Cohort(random_values(5, 3))
    run(cohort, [3] * 5)
    member, sealed = cohort.members[1], cohort.coordinator.sealed_for(1)
    assert np.array_equal(member.mask(cohort.values[1], sealed), cohort.sent["masked", 1])
    with pytest.raises(NotAllowedError, match="masks one vector in a session"):
        member.mask(cohort.values[1] + 1, sealed)
    with pytest.raises(NotAllowedError, match="masks one vector in a session"):
        member.mask(cohort.values[1], {peer: box for peer, box in sealed.items() if peer != 2})


def test_the_members_of_a_cohort_stay_the_same():
    cohort = Cohort(random_values(5, 3))
    cohort.advertise(cohort.members)
    keys = dict(cohort.coordinator.keys_for(1))
    sealed = cohort.members[1].share(keys)
    assert cohort.members[1].share(keys) == sealed
    with pytest.raises(NotAllowedError, match="may not change"):
        cohort.members[1].share({**keys, 9: PublicKeys(b"a" * 32, b"b" * 32)})


def test_shares_of_strangers_and_of_too_few_peers_are_refused():
    cohort = Cohort(random_values(5, 3))
    run(cohort, [2] * 5)
    sealed = dict(cohort.coordinator.sealed_for(1))
    with pytest.raises(BadInputError, match="not a peer"):
        cohort.members[1].mask(cohort.values[1], {**sealed, 9: sealed[2]})
    with pytest.raises(NotAllowedError, match="only 2 of 4 peers are left"):
        cohort.members[1].mask(cohort.values[1], {peer: sealed[peer] for peer in (2, 3)})


@pytest.mark.parametrize("value", [LARGEST + 1, -LARGEST - 1, np.iinfo(np.int64).min])
def test_a_number_that_could_overflow_the_sum_is_refused(value):
    cohort = Cohort(random_values(5, 3))
    run(cohort, [2] * 5)
    with pytest.raises(BadInputError, match=f"3 numbers of at most {LARGEST}"):
        cohort.members[1].mask(np.array([0, value, 0]), cohort.coordinator.sealed_for(1))


def test_a_session_has_bounds():
    with pytest.raises(BadInputError, match="exceeds 63 bits"):
        Session(bytes(32), 4, 1 << 51)
    with pytest.raises(BadInputError, match="an id of 32 bytes"):
        Session(bytes(31), 4, 1)


def test_a_key_that_agrees_with_everybody_is_refused():
    low_order = PublicKeys(bytes(32), bytes([1, *bytes(31)]))
    cohort = Cohort(random_values(4, 3))
    with pytest.raises(BadInputError, match="is not valid"):
        cohort.coordinator.advertise(1, Advertisement(low_order, bytes(32)))
    others = {number: cohort.members[number].advertise().keys for number in (3, 4)}
    with pytest.raises(BadInputError, match="is not valid"):
        cohort.members[1].share({2: low_order, **others})


def test_two_members_do_not_have_one_key():
    cohort = Cohort(random_values(5, 3))
    own = cohort.members[2].advertise()
    cohort.advertise([2])
    with pytest.raises(BadInputError, match="the same key"):
        cohort.coordinator.advertise(3, own)
    with pytest.raises(BadInputError, match="the same key"):
        cohort.members[1].share({2: own.keys, 3: own.keys, 4: cohort.members[4].advertise().keys})


# What the coordinator refuses.


def test_a_masked_message_of_another_session_is_no_message_of_this_one():
    """A replay does not get the values of an earlier session into a later one, nor a second time into the same."""
    earlier, cohort = (Cohort(random_values(5, 3), roots(5, name), name=name) for name in ("earlier", "later"))
    run(earlier, [3] * 5)
    run(cohort, [3] * 5)
    replayed = earlier.sent["masked", 1]
    with pytest.raises(BadInputError, match="member 1 of the cohort sent another message before; the first one counts"):
        cohort.coordinator.mask(1, replayed)
    assert cohort.coordinator.mask(1, cohort.sent["masked", 1]) is False  # a repeated message is counted once
    cohort.unmask(cohort.members)
    with pytest.raises(BadInputError, match="another message before"):
        cohort.coordinator.mask(1, replayed)
    np.testing.assert_array_equal(cohort.coordinator.sum(), sum(cohort.values.values()))


def test_sealed_shares_of_another_session_are_worthless():
    earlier, cohort = (Cohort(random_values(5, 3), roots(5, "same"), name=name) for name in ("earlier", "later"))
    run(earlier, [2] * 5)
    run(cohort, [2] * 5)
    replayed = {**cohort.coordinator.sealed_for(1), 2: earlier.coordinator.sealed_for(1)[2]}
    cohort.members[1].mask(cohort.values[1], replayed)
    assert 2 not in cohort.members[1].unmask([2, 3, 4, 5]).self_masks


def test_messages_after_the_next_step_has_begun_are_late():
    cohort = Cohort(random_values(6, 3))
    late = cohort.members[6].advertise()
    run(cohort, [2, 2, 2, 2, 1, 0])
    with pytest.raises(BadInputError, match="member 6 of the cohort is late"):
        cohort.coordinator.advertise(6, late)
    message = cohort.members[5].share(cohort.coordinator.keys_for(5))
    cohort.mask([1, 2, 3, 4])
    with pytest.raises(BadInputError, match="member 5 of the cohort is late"):
        cohort.coordinator.share(5, message)


def test_shares_are_of_one_secret_of_peers():
    cohort = Cohort(random_values(5, 3))
    run(cohort, [3, 3, 3, 3, 2])
    answer = cohort.members[1].unmask(cohort.coordinator.survivors_for(1))
    for wrong in (
        replace(answer, self_masks={**answer.self_masks, 5: bytes(17)}),
        replace(answer, masking_keys={**answer.masking_keys, 2: bytes(17)}),
        Unmasking({2: bytes(16)}, {}),
    ):
        with pytest.raises(BadInputError):
            cohort.coordinator.unmask(1, wrong)
    with pytest.raises(BadInputError):
        cohort.coordinator.unmask(5, Unmasking({2: bytes(17)}))


def test_wrong_shares_of_one_member_are_left_out():
    values = random_values(9, 3)
    cohort = Cohort(values)
    run(cohort, [3] * 9)
    true = cohort.members[1].unmask(cohort.coordinator.survivors_for(1))
    cohort.coordinator.unmask(1, Unmasking({peer: bytes(17) for peer in true.self_masks}))
    cohort.unmask(range(2, 10))
    np.testing.assert_array_equal(cohort.coordinator.sum(), values.sum(axis=0))


def test_wrong_shares_of_many_members_end_in_an_error_and_no_sum():
    cohort = Cohort(random_values(9, 3))
    run(cohort, [3] * 9)
    for number in cohort.members:
        cohort.coordinator.unmask(number, Unmasking({peer: bytes(17) for peer in range(1, 10) if peer != number}))
    with pytest.raises(IntegrityError, match="do not restore its secret"):
        cohort.coordinator.sum()


def test_a_member_with_damaged_shares_is_named():
    cohort = Cohort(random_values(9, 3))
    cohort.advertise(cohort.members)
    cohort.share(range(1, 9))
    cohort.coordinator.share(9, dict.fromkeys(range(1, 9), bytes(50)))
    cohort.mask(range(1, 9))
    cohort.unmask(range(1, 9))
    with pytest.raises(NotEnoughMembersError):  # the masks that others share with member 9 cannot be restored
        cohort.coordinator.sum()
    assert cohort.coordinator.missing_shares == {9: threshold(8)}


# A member or a coordinator that restarts.


@pytest.mark.parametrize("at", range(STEPS + 1))
def test_a_member_that_restarts_sends_the_same_messages(at):
    values = random_values(6, 3)
    cohort = Cohort(values, roots(6))

    def restart(step):
        if step == at:
            member = Member(cohort.session, 1, cohort.members[1].root, least=3)
            if at >= 2:
                member.share(cohort.coordinator.keys_for(1), cohort.sent["shares", 1])
            if at >= 3:
                again = member.mask(cohort.values[1], cohort.coordinator.sealed_for(1))
                assert np.array_equal(again, cohort.sent["masked", 1])
            if at >= 4:
                assert member.unmask(cohort.coordinator.survivors_for(1)) == cohort.sent["unmasking", 1]
            cohort.members[1] = member

    for step, act in enumerate((cohort.advertise, cohort.share, cohort.mask, cohort.unmask)):
        restart(step)
        act(cohort.members)
    restart(STEPS)
    np.testing.assert_array_equal(cohort.coordinator.sum(), values.sum(axis=0))


def test_a_coordinator_that_restarts_continues_from_the_messages_that_it_kept():
    values = random_values(8, 3)
    cohort = Cohort(values)
    run(cohort, [4] * 6 + [3, 2])
    again = Aggregation(cohort.session, cohort.peers)
    for number, member in cohort.members.items():
        assert again.advertise(number, member.advertise())
    for step, take in (("shares", again.share), ("masked", again.mask), ("unmasking", again.unmask)):
        for number in cohort.members:
            if (step, number) in cohort.sent:
                assert take(number, cohort.sent[step, number])
    np.testing.assert_array_equal(again.sum(), values[:7].sum(axis=0))


# The primitives.


@given(secret=st.binary(min_size=16, max_size=16), data=st.data(), holders=st.integers(2, 30))
@settings(max_examples=30, deadline=None)
def test_any_choice_of_enough_shares_restores_a_secret(secret, data, holders):
    needed = data.draw(st.integers(2, holders))
    shares = primitives.split(secret, holders, needed)
    places = data.draw(st.permutations(range(holders)))[:needed]
    chosen = {place: shares[place] for place in places}
    assert primitives.joined(chosen) == secret
    points = [shamirs.share(place + 1, int.from_bytes(share, "little")) for place, share in chosen.items()]
    assert shamirs.interpolate(points, modulus=primitives.PRIME).to_bytes(16, "little") == secret


def test_masks_and_keys_are_the_same_on_every_machine():
    """The known answers have every derivation of the protocol but the shares, which are random."""
    here = session("golden", 4)
    members = {number: Member(here, number, root, least=3) for number, root in enumerate(roots(4, "golden"), start=1)}
    keys = {number: member.advertise().keys for number, member in members.items()}
    found, shares = {}, {}
    for number, member in members.items():
        shares[number] = member.share({peer: keys[peer] for peer in keys if peer != number})
        advertised = member.advertise()
        found[str(number)] = {
            "sealing_key": advertised.keys.sealing.hex(),
            "masking_key": advertised.keys.masking.hex(),
            "commitment": advertised.commitment.hex(),
        }
    for number, member in members.items():
        sealed = {peer: shares[peer][number] for peer in keys if peer != number}
        masked = member.mask(np.arange(4) - number, sealed)
        found[str(number)]["masked"] = masked.tolist()
    agreement = bytes(range(32))
    found["sealed"] = primitives.seal(agreement, here.id, 1, 2, bytes(range(34))).hex()
    found["shares"] = {"secret": GOLDEN["shares"]["secret"], "of": GOLDEN["shares"]["of"]}
    assert found == GOLDEN
    of = {int(place): bytes.fromhex(share) for place, share in GOLDEN["shares"]["of"].items()}
    assert primitives.joined(of).hex() == GOLDEN["shares"]["secret"]
    assert primitives.unseal(agreement, here.id, 1, 2, bytes.fromhex(GOLDEN["sealed"])) == bytes(range(34))
