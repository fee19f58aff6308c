import pytest

from fwdllm_common.errors import BadInputError
from fwdllm_server.config.peft_spec import LAYER_METHODS, PeftSpec
from fwdllm_server.config.toml_model import parse_toml
from fwdllm_server.profiler.candidates import CandidateFile, default_candidates, name_of


def read(text):
    return parse_toml(text, CandidateFile, "candidates.toml").candidate


def test_the_head_side_modules_and_every_other_method_in_two_depths_are_candidates():
    head, side, *others = default_candidates()
    assert (head.layers, side.method) == ([], "side")
    found = [(spec.method, None if spec.layers is None else tuple(spec.layers)) for spec in others]
    assert sorted(found, key=str) == sorted(
        [(method, layers) for method in LAYER_METHODS for layers in (None, (-2, -1))], key=str
    )


def test_names_tell_all_settings():
    assert name_of(PeftSpec()) == "lora, rank 4, all layers"
    assert name_of(PeftSpec(method="side")) == "side"
    assert name_of(PeftSpec(method="lora-fa", layers=[])) == "head alone"
    assert name_of(PeftSpec(rank=8, alpha=16, layers=[-1])) == "lora, rank 8, alpha 16.0, top layer"
    assert name_of(PeftSpec(method="bitfit", layers=[0, 3])) == "bitfit, layers 0 3"
    spec = PeftSpec(method="lora-xs", bases="activations", targets=["query", "value"], layers=[-3, -1, -2])
    assert name_of(spec) == "lora-xs, rank 4, bases activations, targets query value, top 3 layers"


def test_candidates_from_a_file():
    assert read('[[candidate]]\nmethod = "ia3"\n[[candidate]]\nrank = 2') == [
        PeftSpec(method="ia3"),
        PeftSpec(rank=2),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "candidate is missing"),
        ("candidate = []", "candidate is"),
        ('[[candidates]]\nmethod = "ia3"', 'candidates is no known key; did you mean "candidate"'),
        ('[[candidate]]\nmethod = "lara"', 'did you mean "lora"'),
        ("[[candidate]]\nranks = 2", r'\[candidate.0\] ranks is no known key; did you mean "rank"'),
        ('[[candidate]]\nmethod = "ia3"\nrank = 2', "rank does nothing with the method 'ia3'"),
        ("[[candidate]]\n[[candidate]]\nrank = 4", "'lora, rank 4, all layers' is given 2 times"),
    ],
)
def test_wrong_files(text, message):
    with pytest.raises(BadInputError, match=message):
        read(text)
