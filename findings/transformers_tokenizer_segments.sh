#!/bin/sh
# A tokenizer of pairs is saved by transformers' generic class, and loaded again beside a BERT's config.json.
#
# One would guess that a pair comes with the segments that its tokenizer.json assigns: the template marks the second text
# as segment 1, and BERT has segment embeddings.
#
# With transformers 5.23.0 the generic class's model_input_names are input_ids and attention_mask. The tokenizers package
# computes the segments, and the call leaves them out unless return_token_type_ids=True. The class's name is saved in
# tokenizer_config.json and has precedence over the model's type. Saving with model_input_names that name token_type_ids
# brings them back.
#
# Why it matters: models for pairs that were trained with segments get all tokens as the first segment, from pipeline() and
# from every script that calls the tokenizer in the usual way, without a warning.
#
# Seen: the backend's type_ids are 0 0 0 0 1 1 1; the call returns input_ids and attention_mask alone.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3
HF_HUB_OFFLINE=1 "$place/env/bin/python" -W ignore - "$place" <<'EOF'
import json
import sys
from pathlib import Path

import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

print("transformers", transformers.__version__)
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "red", "green", "blue", "grey"]
backend = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
backend.pre_tokenizer = Whitespace()
backend.post_processor = TemplateProcessing(
    single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
)
pair = ("red green", "blue grey")
known = backend.encode(*pair).type_ids
print("the backend's segments:", known)
special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
found = {}
for name, more in (("plain", {}), ("named", {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]})):
    folder = Path(sys.argv[1]) / name
    PreTrainedTokenizerFast(tokenizer_object=backend, **special, **more).save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    loaded = AutoTokenizer.from_pretrained(folder)
    found[name] = loaded(*pair)
    print(f"{name}, {type(loaded).__name__}:", sorted(found[name]))
assert known == [0, 0, 0, 0, 1, 1, 1], known
assert sorted(found["plain"]) == ["attention_mask", "input_ids"], found
assert found["named"]["token_type_ids"] == known, found
EOF
