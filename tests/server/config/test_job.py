import re
from math import inf

import pytest
from helpers.tiny_job import job_toml

from fwdllm_common.errors import BadInputError
from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.toml_model import parse_toml

ASKING = {"labels": None, "task": "question-answering"}


def parse(changes):
    return parse_toml(job_toml(changes), JobSpec, "job.toml")


def test_a_job_file_needs_a_name_a_model_held_out_rows_and_a_block():
    spec = parse({"optimizer": None, "rounds": None, "blocks.peft": None})

    assert (spec.job.name, spec.optimizer.kind, spec.rounds.count) == ("tiny", "adam", 50)
    assert list(spec.blocks) == ["head"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # wrong keys, with the near one
        ({"rounds": {"cuont": 3}}, '[rounds] cuont is no known key; did you mean "count"?'),
        ({"job": {"sead": 3}}, '[job] sead is no known key; did you mean "seed"?'),
        ({"round": {"count": 3}}, 'round is no known key; did you mean "rounds"?'),
        ({"blocks.head": {"evry": 3}}, '[blocks.head] evry is no known key; did you mean "every"?'),
        ({"rounds": {"zzz": 3}}, "[rounds] zzz is no known key"),
        # missing keys and sections
        ({"job": {"name": None}}, "[job] name is missing"),
        ({"model": None}, "model is missing"),
        ({"blocks.head": {"learning_rate": None}}, "[blocks.head] learning_rate is missing"),
        # wrong values
        (
            {"optimizer": {"kind": "adan"}},
            "[optimizer] kind is 'adan': should be 'sgd', 'momentum', 'adam', 'normalized' or 'trust-ratio'; "
            'did you mean "adam"?',
        ),
        (
            {"perturbation": {"distribution": "gausian"}},
            "[perturbation] distribution is 'gausian': should be 'rademacher' or 'gaussian'; "
            'did you mean "gaussian"?',
        ),
        (
            {"perturbation": {"difference": "centre"}},
            "[perturbation] difference is 'centre': should be 'one-sided' or 'central'; did you mean \"central\"?",
        ),
        # sampling
        ({"blocks.head.sampling": {"kep": 1}}, '[blocks.head.sampling] kep is no known key; did you mean "keep"?'),
        ({"blocks.head.sampling": {"keep": 0}}, "[blocks.head.sampling] keep is 0: should be greater than or equal to"),
        ({"blocks.head.sampling": {"keep": 1.5}}, "[blocks.head.sampling] keep is 1.5: should be less than or equal"),
        (
            {"blocks.head.sampling": {"cosine": "both"}},
            "[blocks.head.sampling] cosine is 'both': should be 'signed' or 'absolute'",
        ),
        (
            {"blocks.head.sampling": {"scope": "block"}},
            "[blocks.head.sampling] scope is 'block': should be 'vector' or 'tensor'",
        ),
        (
            {"blocks.head.sampling": {"reference": "last"}},
            "[blocks.head.sampling] reference is 'last': should be 'gradient' or 'momentum'",
        ),
        ({"blocks.head.sampling": {"every": 0}}, "[blocks.head.sampling] every is 0: should be greater than or equal"),
        ({"rounds": {"count": 0}}, "[rounds] count is 0: should be greater than or equal to 1"),
        ({"rounds": {"over_assign": 0.9}}, "[rounds] over_assign is 0.9: should be greater than or equal to 1"),
        ({"rounds": {"min_fraction": 1.5}}, "[rounds] min_fraction is 1.5: should be less than or equal to 1"),
        (
            {"blocks.head": {"directions": 1 << 20}},
            "[blocks.head] directions is 1048576: should be greater than or equal to 1 and at most 65536",
        ),
        ({"blocks.head": {"learning_rate": 0}}, "[blocks.head] learning_rate is 0: should be greater than 0"),
        ({"job": {"name": "a b"}}, "[job] name is 'a b': "),
        ({"job": {"seed": -1}}, "[job] seed is -1: should be greater than or equal to 0"),
        ({"model": {"labels": ["one"]}}, "[model] labels is ['one']: "),
        ({"model": {"labels": ["one", ""]}}, "[model.labels] 1 is '': "),
        # wrong types
        ({"rounds": {"count": "many"}}, "[rounds] count is 'many': should be a valid integer"),
        ({"rounds": {"count": 2.5}}, "[rounds] count is 2.5: should be a valid integer"),
        ({"held_out": {"file": 3}}, "[held_out] file is 3: should be a valid string"),
        ({"model": {"labels": "one"}}, "[model] labels is 'one': should be a valid list"),
        # keys that contradict each other
        ({"rounds": {"min_devices": 5, "max_devices": 4}}, "[rounds]: max_devices is below min_devices"),
        ({"blocks.head": {"max_directions": 5}}, "[blocks.head]: max_directions is below directions"),
        (
            {"model": {"labels": None}, "model.verbaliser": {"a": " b"}},
            "[model]: labels are missing, which the verb",
        ),
        ({"rounds": {"patience": 2}}, "[rounds] patience needs [held_out] validation"),
        (
            {"held_out": {"validation": 0.5, "start": 0.5}},
            "[held_out]: validation and start leave no rows to report on",
        ),
        (
            {"held_out": {"start": 0.2}, "model": {"head": "class-means"}},
            'the head starts from [held_out] start and from [model] head = "class-means"; leave out one of them',
        ),
        (
            {"held_out": {"start": 0.2}, "model": ASKING},
            "[held_out] start is for heads of classes, not for question-answering; leave it out",
        ),
        ({"model": {"no_answer": True}}, '[model]: no_answer is for task = "question-answering"; leave it out'),
        ({"model": ASKING | {"labels": ["a", "b"]}}, "[model]: question-answering has no labels; leave it out"),
        ({"model": ASKING | {"prompt": "{text}"}}, "[model]: question-answering has no prompt; leave it out"),
        ({"model": ASKING | {"pooling": "mean"}}, '[model]: question-answering has no pooling = "mean"; leave it out'),
        ({"model": ASKING | {"head": "class-means"}}, '[model]: question-answering has no head = "class-means"'),
        ({"model": ASKING | {"max_tokens": 15}}, "[model]: question and context need a max_tokens of 16 at least"),
        ({"model": {"labels": ["a", "b", "a"]}}, "[model]: a label is given twice"),
        (
            {"model": {"head": "class-means", "one_block": True}},
            '[model]: head = "class-means" needs the head in a block of its own; leave out one_block',
        ),
        ({"model": {"prompt": "It was"}}, "[model] prompt is 'It was': must hold {text} once"),
        ({"model": {"prompt": "{text}", "pooling": "mean"}}, '[model]: a prompt or verbaliser needs pooling = "model"'),
        ({"model.verbaliser": {"yes": "good"}}, "[model]: the verbaliser has no word for the label 'no'"),
        (
            {"model.verbaliser": {"yes": "good", "no": "bad", "maybe": "fair"}},
            "[model]: the verbaliser has a word for 'maybe', which is no label",
        ),
        ({"model.verbaliser": {"yes": "good", "no": ""}}, "[model.verbaliser] no is '': string should have at least 1"),
        (
            {"model": {"head": "random"}, "model.verbaliser": {"yes": "good", "no": "bad"}},
            '[model]: the verbaliser says how the head begins; set head = "zeros"',
        ),
        (
            {"blocks.head": {"first_round": 2}, "blocks.peft": {"every": 2}},
            "at least one block must take part in every round (first_round = 1, every = 1)",
        ),
        (
            {"blocks.head": {"every": 2}, "blocks.head.sampling": {}},
            '[blocks.head]: sampling by the last round\'s gradient needs every = 1; use reference = "momentum"',
        ),
        (
            {"optimizer": {"kind": "sgd"}, "blocks.head.sampling": {"reference": "momentum"}},
            'sampling by momentum needs an optimiser that has it; sgd has reference = "gradient"',
        ),
        (
            {"perturbation": {"distribution": "gaussian"}, "blocks.head": {"directions": 32769}},
            "a round has at most 32768 gaussian directions of a block, over-assigned ones included; "
            'lower directions or max_directions, or use distribution = "rademacher"',
        ),
        (
            {"perturbation": {"distribution": "gaussian"}, "blocks.head": {"max_directions": 32769}},
            "a round has at most 32768 gaussian directions of a block",
        ),
        (
            {
                "perturbation": {"distribution": "gaussian"},
                "blocks.head": {"directions": 32000},
                "rounds": {"over_assign": 1.1},
            },
            "a round has at most 32768 gaussian directions of a block",
        ),
    ],
)
def test_what_is_wrong_is_said_in_one_line_that_names_the_key(changes, message):
    with pytest.raises(BadInputError, match=f"^job.toml: {re.escape(message)}") as raised:
        parse(changes)

    assert "\n" not in str(raised.value)


def test_the_verbalisers_words_follow_the_labels():
    spec = parse({"model": {"prompt": "{text} It was"}, "model.verbaliser": {"yes": "great", "no": "terrible"}})

    assert (spec.model.labels, spec.model.words) == (["no", "yes"], ["terrible", "great"])
    assert parse({}).model.words is None


def test_an_unknown_block_is_told_with_the_known_ones():
    with pytest.raises(BadInputError, match=r"^job\.toml: .*blocks.* heads.*'peft', 'pooling', 'readout' or 'head'"):
        parse({"blocks.heads": {"directions": 1, "learning_rate": 1}})


def test_text_that_is_no_toml_is_told_with_its_place():
    with pytest.raises(BadInputError, match=r"^job\.toml: not TOML: .*line 1, column 7") as raised:
        parse_toml("[job] x = 1", JobSpec, "job.toml")

    assert "\n" not in str(raised.value)


def test_of_several_mistakes_the_first_is_told_and_the_others_counted():
    with pytest.raises(BadInputError, match=r"\(and 1 more\)$"):
        parse({"rounds": {"count": 0, "min_devices": 0}})


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ("blocks.head", "learning_rate"),
        ("perturbation", "epsilon"),
        ("rounds", "deadline_s"),
        ("rounds", "accept_s"),
        ("rounds", "assignment_s"),
    ],
)
def test_a_number_that_must_be_finite_is(section, key):
    with pytest.raises(BadInputError, match=rf"\[{section}\] {key} is inf: should be a finite number"):
        parse({section: {key: inf}})


def test_as_many_gaussian_directions_as_fit_are_taken():
    sections = {"perturbation": {"distribution": "gaussian"}, "rounds": {"over_assign": 2.0}}
    spec = parse({**sections, "blocks.head": {"directions": 10, "max_directions": 1024}})

    assert spec.blocks["head"].max_directions == 1024


def test_rademacher_directions_have_no_such_limit():
    assert parse({"blocks.head": {"directions": 65536}}).blocks["head"].directions == 65536


def test_sampling_has_a_default_for_every_key_and_is_left_out_without_a_section():
    spec = parse({"blocks.head.sampling": {}})
    sampling = spec.blocks["head"].sampling

    assert sampling is not None
    assert sampling.model_dump() == {
        "keep": 0.1,
        "cosine": "signed",
        "scope": "vector",
        "reference": "gradient",
        "every": 1,
    }
    assert spec.blocks["peft"].sampling is None


def test_a_block_that_pauses_may_sample_by_momentum():
    spec = parse({"blocks.head": {"every": 2}, "blocks.head.sampling": {"reference": "momentum"}})

    assert spec.blocks["head"].every == 2


def test_an_infinite_threshold_is_how_pacing_is_left_out():
    assert parse({"blocks.head": {"variance_threshold": inf}}).blocks["head"].variance_threshold == float("inf")


SECURED = {
    "privacy": {"secure_aggregation": True},
    "rounds": {"min_devices": 8},
    "blocks.head": {"directions": "auto"},
    "blocks.peft": {"directions": "auto"},
}


def test_a_secured_job_has_no_clip():
    assert parse(SECURED).robust.clip == 0
    assert parse({}).robust.clip == 3


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"rounds": {"min_devices": 7}}, "min_devices = 7; set [rounds] min_devices to 8 or more"),
        ({"rounds": {"min_devices": 8, "max_devices": 5000}}, "max_devices = 5000; at most 4096"),
        ({"rounds": {"min_devices": 8, "over_assign": 1.5}}, "over_assign, since all devices measure the same"),
        ({"rounds": {"min_devices": 8, "over_assign": "auto"}}, "over_assign, since all devices measure the same"),
        ({"robust": {"clip": 2}}, "clip, since nobody sees a device's own scalars"),
        ({"model": {"head": "class-means"}}, 'head = "class-means", which asks devices for sums of their own'),
        ({"blocks.head": {"directions": 9}}, 'directions = 9 of the block head; use directions = "auto"'),
    ],
)
def test_what_a_secured_job_may_not_use_is_named(changes, why):
    with pytest.raises(BadInputError, match=re.escape(f"secure_aggregation is not possible with {why}")):
        parse({**SECURED, **changes})


def test_a_preset_for_heads_can_be_secured():
    text = """
    [job]
    name = "a"
    [model]
    source = "m"
    labels = ["a", "b"]
    [held_out]
    file = "f.csv"
    [rounds]
    min_devices = 8
    [privacy]
    secure_aggregation = true
    """
    assert parse_toml(text, JobSpec, "job.toml").privacy.secure_aggregation


PRIVATE = {
    "privacy": {"epsilon": 4.0, "delta": 1e-5, "clip": 1.0},
    "blocks.head": {"directions": "auto"},
    "blocks.peft": {"directions": "auto"},
}


def test_a_private_job_has_no_clip_of_scalars_and_noise_for_all_rounds():
    job = parse({**PRIVATE, "rounds": {"count": 12}})

    assert job.robust.clip == 0
    assert job.privacy.budget == (4.0, 1e-5, 1.0, 12)


def test_more_rounds_are_no_more_budget():
    job = parse({**PRIVATE, "rounds": {"count": 12}})
    extended = job.model_copy(update={"rounds": job.rounds.extended(8)})
    again = JobSpec.model_validate(extended.model_dump())

    assert (again.rounds.count, again.privacy.rounds_per_device) == (20, 12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"privacy": {"epsilon": 4.0, "clip": 1.0}}, "delta is missing"),
        ({"privacy": {"rounds_per_device": 4}}, "epsilon is missing"),
        ({"blocks.head": {"directions": 30}}, "which bound no gradient"),
        ({"robust": {"clip": 3.0}}, "which compares devices"),
        ({"rounds": {"federated_evaluate_every": 2}}, "whose counts have no noise"),
        ({"model": {"head": "class-means", "pooling": "mean"}}, "whose sums have no noise"),
        ({"perturbation": {"distribution": "gaussian"}}, "no bound that is exact"),
    ],
)
def test_what_is_not_accounted_for_is_refused(changes, message):
    with pytest.raises(BadInputError, match=message):
        parse({**PRIVATE, **changes})


def test_the_preset_private_sums_scalars_and_measures_completely():
    text = """
    preset = "private"
    [job]
    name = "a"
    [model]
    source = "somewhere"
    labels = ["x", "y"]
    [held_out]
    file = "held_out.csv"
    """
    job = parse_toml(text, JobSpec, "job.toml")

    assert job.privacy.secure_aggregation
    assert job.rounds.min_devices == 8
    assert {block.directions for block in job.blocks.values()} == {"auto"}
    with pytest.raises(BadInputError, match="min_devices = 4"):
        parse_toml(text + "[rounds]\nmin_devices = 4\n", JobSpec, "job.toml")
