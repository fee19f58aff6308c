#!/bin/sh
# A tokenizer of transformers is called once with truncation and padding, to look at a batch, and saved.
#
# One would guess that the arguments of a call are the call's, and that tokenizer.json is the same before and after.
#
# With transformers 5.23.0 the last call's limits are saved in tokenizer.json. transformers itself does not show it: it sets
# them anew with each call. The tokenizers package alone, which reads the same file, obeys them: it cuts every text to the
# length of that one call and pads it, without being asked.
#
# Why it matters: phones have the small package, the coordinator the large one. The devices train on cut and padded texts,
# the coordinator evaluates whole ones, the file's hash depends on what was called last, and every number looks plausible.
# A device has to call no_truncation() and no_padding() after loading.
#
# Seen, for a text of 7 words after a call with max_length=5:
#   transformers: 9 tokens; tokenizers: 5 tokens. For a text of one word: 3 and 5
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet --disable-pip-version-check transformers==5.23.0 tokenizers==0.23.3
HF_HUB_OFFLINE=1 "$place/env/bin/python" - "$place" <<'EOF'
import sys
from pathlib import Path

import tokenizers
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

print("transformers", transformers.__version__, "tokenizers", tokenizers.__version__)
words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "quick", "brown", "fox"]
backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "[UNK]"))
backend.pre_tokenizer = pre_tokenizers.Whitespace()
backend.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]")
place = Path(sys.argv[1])
tokenizer.save_pretrained(place / "before")
tokenizer("a quick brown fox a quick fox", truncation=True, padding="max_length", max_length=5)
tokenizer.save_pretrained(place / "after")
found = {}
for folder in ("before", "after"):
    large = AutoTokenizer.from_pretrained(place / folder)
    small = Tokenizer.from_file(str(place / folder / "tokenizer.json"))
    for text in ("a quick brown fox a quick fox", "fox"):
        found[folder, text] = lengths = len(large(text)["input_ids"]), len(small.encode(text).ids)
        print(f"saved {folder} the call, {text!r}: tokens of transformers and tokenizers are", *lengths)
assert list(found.values()) == [(9, 9), (3, 3), (9, 5), (3, 5)], found
EOF
