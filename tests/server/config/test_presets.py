import tomllib

import pytest

from fwdllm_common.errors import BadInputError
from fwdllm_server.config.job import JobSpec
from fwdllm_server.config.presets import NAMES
from fwdllm_server.config.toml_model import parse_toml

TASK = """
[job]
name = "a"
[model]
source = "somewhere"
labels = ["x", "y"]
[held_out]
file = "held_out.csv"
"""


def spec(more: str = "", top: str = "") -> JobSpec:
    return parse_toml(top + TASK + more, JobSpec, "job.toml")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "causal-lm-side"])
def test_a_task_and_a_preset_are_a_job(name):
    assert spec(top=f'preset = "{name}"\n').blocks


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("side", "causal-lm-side")])
def test_questions_have_no_pooling_from_a_preset(name):
    task = TASK.replace('labels = ["x", "y"]', 'task = "question-answering"')
    model = parse_toml(f'preset = "{name}"\n{task}', JobSpec, "job.toml").model
    assert (model.task, model.pooling, model.labels) == ("question-answering", "model", [])


def test_a_job_that_says_nothing_has_the_default():
    named = spec(top='preset = "default"\n')

    assert spec().model_dump() == {**named.model_dump(), "preset": None}


def test_a_job_that_chooses_a_peft_method_trains_it():
    chosen = spec('[peft]\nmethod = "ia3"\n')

    assert (chosen.peft.method, set(chosen.blocks)) == ("ia3", {"head", "peft"})


def test_a_job_that_chooses_side_modules_has_their_blocks():
    chosen = spec('[peft]\nmethod = "side"\n')

    assert set(chosen.blocks) == {"pooling", "readout", "head"}
    assert chosen.model.pooling == "layer-means"


def completing(more=""):
    text = TASK.replace('labels = ["x", "y"]', 'task = "causal-lm"')
    return parse_toml(text + more, JobSpec, "job.toml")


def test_a_model_that_generates_has_side_modules_of_its_own():
    chosen = completing('[peft]\nmethod = "side"\n')

    assert (chosen.peft.rank, chosen.perturbation.linearised_loss) == (40, True)
    assert chosen.blocks["peft"].directions == "auto"
    assert completing().peft.method == "lora-xs"
    with pytest.raises(BadInputError, match="no block 'readout' with the method 'side'"):
        completing('[peft]\nmethod = "side"\n[blocks.readout]\ndirections = 8\nlearning_rate = 0.1\n')


def test_side_modules_of_a_classifier_have_no_rank():
    with pytest.raises(BadInputError, match='rank does nothing with the method "side" in classification'):
        spec('[peft]\nmethod = "side"\nrank = 8\n')


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("[blocks.peft]\ndirections = 8\nlearning_rate = 0.1\n", "no block 'peft' with the method 'side'"),
        ('pooling = "model"\n', 'needs \\[model\\] pooling = "layer-means" or "mean"'),
        ("one_block = true\n", "leave out one_block"),
    ],
)
def test_side_modules_are_refused_where_they_have_no_place(more, message):
    text = 'preset = "side"\n' + TASK.replace('labels = ["x", "y"]\n', 'labels = ["x", "y"]\n' + "@")
    text = text.replace("@", "" if more.startswith("[") else more) + (more if more.startswith("[") else "")
    with pytest.raises(BadInputError, match=message):
        parse_toml(text, JobSpec, "job.toml")


def test_other_methods_have_no_blocks_of_side_modules():
    with pytest.raises(BadInputError, match="no block 'pooling' with the method 'lora'"):
        spec("[blocks.pooling]\ndirections = 8\nlearning_rate = 0.1\n")


def test_the_paper_is_as_published():
    paper = spec(top='preset = "fwdllm-paper"\n')
    block = paper.blocks["peft"]

    assert set(paper.blocks) == {"peft"}
    assert (paper.optimizer.kind, block.learning_rate, block.batch_size) == ("sgd", 0.01, 8)
    assert (paper.perturbation.distribution, paper.perturbation.difference) == ("gaussian", "central")
    assert (block.pacing, block.variance_threshold) == ("absolute", 0.1)
    assert block.sampling is not None
    assert (block.sampling.every, block.sampling.keep) == (2, 0.1)
    assert block.directions == paper.rounds.min_devices


def test_what_the_job_says_has_precedence():
    changed = spec("[rounds]\ncount = 7\n[blocks.peft]\nlearning_rate = 0.5\n", 'preset = "fwdllm-paper"\n')

    assert (changed.rounds.count, changed.rounds.min_devices) == (7, 100)
    assert (changed.blocks["peft"].learning_rate, changed.blocks["peft"].batch_size) == (0.5, 8)


def test_only_the_blocks_that_the_job_names_remain():
    assert set(spec("[blocks.head]\nlearning_rate = 0.5\n", 'preset = "upper-layers"\n').blocks) == {"head"}


def test_another_peft_method_takes_nothing_from_the_preset():
    assert spec('[peft]\nmethod = "lora"\n', 'preset = "fwdllm-paper"\n').peft.rank == 4


def test_a_job_with_its_own_blocks_stands_alone():
    alone = spec("[blocks.head]\ndirections = 3\nlearning_rate = 0.5\n")
    bare = tomllib.loads("directions = 3\nlearning_rate = 0.5")

    assert alone.blocks["head"].model_dump(exclude_defaults=True) == bare
    assert alone.peft.layers is None


def test_an_unknown_preset_is_refused_with_the_nearest():
    with pytest.raises(BadInputError, match="fwdllm-paper"):
        spec(top='preset = "fwdllm-papr"\n')
