#!/bin/sh
# A model folder without any file of a tokenizer: one would guess that AutoTokenizer refuses it.
# transformers 5 builds a tokenizer whose vocabulary is the special tokens alone, without a warning: every text becomes
# unknown tokens (BERT) or nothing at all (GPT-2). Whoever loads tokenizers of strangers has to look at the vocabulary.
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet transformers==5.23.0 tokenizers==0.23.3
mkdir "$place/bert" "$place/gpt2"
echo '{"model_type": "bert", "vocab_size": 30522}' > "$place/bert/config.json"
echo '{"model_type": "gpt2", "vocab_size": 50257}' > "$place/gpt2/config.json"
HF_HUB_OFFLINE=1 "$place/env/bin/python" - "$place" <<'EOF'
import sys

import transformers
from transformers import AutoTokenizer

print("transformers", transformers.__version__)
found = {}
for name in ("bert", "gpt2"):
    tokenizer = AutoTokenizer.from_pretrained(f"{sys.argv[1]}/{name}")
    found[name] = (len(tokenizer), tokenizer("a quick brown fox", add_special_tokens=False)["input_ids"])
    print(name, "has", found[name][0], "tokens; 'a quick brown fox' is", found[name][1])
assert found == {"bert": (5, [1, 1, 1, 1]), "gpt2": (1, [])}, found
EOF
