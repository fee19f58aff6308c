"""Who is drawn: uniformly, and over a day everyone as often as everyone else."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from fwdllm_server.rounds.presence import draw

FLEET = [f"device-{number}" for number in range(40)]


def test_there_are_no_more_than_there_are():
    assert draw(["b", "a"], 5, {}, "key") == ["a", "b"]


@given(st.lists(st.sampled_from(FLEET), unique=True), st.randoms(use_true_random=False), st.integers(0, 50))
def test_the_order_in_which_devices_came_does_not_matter(devices, random, size):
    shuffled = devices.copy()
    random.shuffle(shuffled)

    assert draw(shuffled, size, {}, "key") == draw(devices, size, {}, "key")


def test_every_device_has_the_same_chance():
    """400 draws of 10 among 40: each is expected 100 times, with a standard deviation of 8.7."""
    counts = Counter(device for number in range(400) for device in draw(FLEET, 10, {}, str(number)))

    assert set(counts) == set(FLEET)
    assert all(60 < count < 140 for count in counts.values())


@given(
    st.integers(2, 25),
    st.integers(1, 12),
    st.lists(st.sets(st.sampled_from(FLEET[25:]), max_size=8), min_size=1, max_size=40),
)
@settings(max_examples=60)
def test_nobody_who_is_always_there_is_starved_or_overused(always, size, visitors):
    """Whoever else comes and goes: those always there have worked as often as one another, give or take one."""
    staying = FLEET[:always]
    worked: Counter[str] = Counter()
    for number, visiting in enumerate(visitors):
        worked.update(draw([*staying, *sorted(visiting)], size, worked, str(number)))
    counts = [worked[device] for device in staying]

    assert max(counts) - min(counts) <= 1
    assert max(worked.values()) <= max(counts) + 1


def test_who_has_worked_less_is_first():
    assert draw(["a", "b", "c"], 1, {"a": 3, "b": 2, "c": 3}, "any key") == ["b"]
