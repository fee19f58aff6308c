#!/bin/sh
# Hugging Face datasets: the labels of a CSV file are the stars "1" to "5" and become a ClassLabel with just these names.
#
# One would guess that a "0" in the file is refused, as "6" is: it is no name.
#
# With datasets 5.2.0 a string that is no name is tried as an index: "0" becomes class 0, which is "1". Numbers are indices
# from the beginning: the same column read as integers makes "4 stars" of the 4, the class named "5". So one column gives two
# sets of labels, by whether a reader guessed strings or integers, and an error is raised only where an index is too large.
#
# Why it matters: each owner of a device reads an own file. A few shards whose labels are all one off pull the shared model
# the wrong way, and nobody sees their rows. Labels have to be looked up by name, strictly, on every device.
#
# Seen: strings 1, 4, 0 become the names 1, 4, 1; integers 1, 4, 0 become 2, 5, 1; the string 6 is refused
set -eu
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/env"
"$place/env/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0
HF_HOME="$place" HF_DATASETS_OFFLINE=1 "$place/env/bin/python" - <<'EOF'
import datasets
from datasets import ClassLabel, Dataset

print("datasets", datasets.__version__)
datasets.disable_progress_bars()
stars = ClassLabel(names=["1", "2", "3", "4", "5"])


def names(labels):
    column = Dataset.from_dict({"label": labels}).cast_column("label", stars)["label"]
    return [stars.int2str(label) for label in column]


found = names(["1", "4", "0"]), names([1, 4, 0])
print("strings 1, 4, 0 become the names", *found[0])
print("integers 1, 4, 0 become the names", *found[1])
try:
    print("the string 6 becomes", names(["6"]))
    refused = False
except ValueError as error:
    print("the string 6:", error)
    refused = True
assert found == (["1", "4", "1"], ["2", "5", "1"]) and refused, found
EOF
