from collections import Counter

from fwdllm_common.job_choice import JobChoice
from fwdllm_server.rounds.presence import PERIOD_S, Presence, Present

LABELS = ("no", "yes")


def here(*devices: Present, now: float = 100.0) -> list[str]:
    presence = Presence(window_s=30)
    for device in devices:
        presence.seen(device)
    return presence.eligible("news", LABELS, now)


def device(name: str, at: float = 100.0, *labels: str) -> Present:
    return Present(name, at, frozenset(labels))


def test_a_device_is_here_until_its_window_is_over():
    assert here(device("a", 70), device("b", 69.9)) == ["a"]


def test_another_check_in_keeps_it_here():
    assert here(device("a", 10), device("a", 90)) == ["a"]


def test_a_device_needs_no_more_labels_than_the_job_has():
    assert here(device("a", 100, "no"), device("b", 100, "no", "yes"), device("c", 100, "no", "maybe")) == ["a", "b"]


def test_the_order_does_not_depend_on_who_came_first():
    assert here(device("b"), device("a"), device("c")) == ["a", "b", "c"]


def test_who_leaves_is_not_here():
    presence = Presence(window_s=30)
    presence.seen(device("a"))
    presence.leave("a")
    presence.leave("nobody")

    assert presence.eligible("news", LABELS, 100) == []


def test_a_device_may_have_to_be_able_to_do_something():
    presence = Presence(window_s=30)
    presence.seen(Present("a", 100, frozenset(LABELS), frozenset({"x", "y"})))
    presence.seen(Present("b", 100, frozenset(LABELS), frozenset({"y"})))
    presence.seen(device("c"))

    assert presence.eligible("news", LABELS, 100, "x") == ["a"]
    assert presence.eligible("news", LABELS, 100) == ["a", "b", "c"]


def test_owners_choose_their_jobs():
    presence = Presence(10)
    presence.seen(Present("a", 100, frozenset(LABELS)))
    presence.seen(Present("b", 100, frozenset(LABELS), jobs=JobChoice().deny("news")))
    presence.seen(Present("c", 100, frozenset(LABELS), jobs=JobChoice(only=True).allow("news")))

    assert presence.eligible("news", LABELS, 100) == ["a", "c"]
    assert presence.eligible("weather", LABELS, 100) == ["a", "b"]


def test_who_comes_while_all_places_are_taken_may_be_sent_away():
    presence = Presence(window_s=30)
    fleet = [device(f"device-{number}") for number in range(200)]
    for each in fleet:
        presence.admit(each, 20)
    admitted = presence.eligible("news", LABELS, 100)

    assert len(admitted) == 20
    # Whoever comes again has the same lot: those who are here stay, the others are sent away again.
    assert [each.device_id for each in fleet if presence.admit(each, 20)] == [
        each.device_id for each in fleet if each.device_id in admitted
    ]


def test_in_whatever_order_they_come_the_same_are_admitted_and_each_has_its_chance():
    counts: Counter[str] = Counter()
    for period in range(200):
        at = 100 + period * PERIOD_S
        fleet = [device(f"device-{number}", at) for number in range(40)]
        here = []
        for order in (fleet, fleet[::-1]):
            presence = Presence(window_s=30)
            for each in order:
                presence.admit(each, 10)
            here.append(presence.eligible("news", LABELS, at))
        assert here[0] == here[1]
        counts.update(here[0])

    assert len(counts) == 40
    assert all(20 < count < 85 for count in counts.values())  # 50 expected, standard deviation 6.1


def test_a_place_is_free_again_when_its_device_has_gone():
    presence = Presence(window_s=30)
    for number in range(50):
        presence.admit(device(f"early-{number}", 100), 10)

    assert sum(presence.admit(device(f"late-{number}", 140), 10) for number in range(10)) == 10
