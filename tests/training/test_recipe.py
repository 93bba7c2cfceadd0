"""The recipe of the paper as it stands, from first command to last, with the built-in model for the large one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("trl", reason="TRL is not installed (extra trl)")

from crslib.config import ROOT
from crslib.engines import llama
from crslib.store import Run

FILMS = {
    "Heat (1995)": "a heist",
    "Up (2009)": "balloons",
    "Jaws (1975)": "a shark",
    "Alien (1979)": "space",
    "Fargo (1996)": "snow",
    "Big (1988)": "a boy",
    "Rocky (1976)": "boxing",
}


def pearl(path: Path, n: int) -> Path:
    """A file of PEARL's shape with `n` dialogues of as many seekers, who have seen one of the films recommended."""
    records = []
    for number in range(n):
        liked, seen, found = (list(FILMS)[(number + step) % len(FILMS)] for step in (0, 1, 3))
        talk = [
            f"Seeker: Hi! I loved {liked}. What else is there?",
            f"Recommender: Have you seen {seen}? It is about {FILMS[seen]}.",
            "Seeker: Yes, I have seen it, and I loved it.",
            f"Recommender: Then try {found}, it is about {FILMS[found]}.",
            "Seeker: Great, I will watch that one. Thank you!",
            "Recommender: You are welcome, enjoy it!",
        ]
        record = {"user_id": f"ur{number}", "user_persona": f"{liked} is great.", "seen_movie_titles": [liked, seen]}
        about = {"gt_movie_title": found, "gt_genre": "Action", "gt_director": "", "gt_cast": "", "gt_abstract": ""}
        records.append({**record, **about, "data_id": number, "dialogue": talk})
    path.write_text(json.dumps(records), encoding="utf-8")
    return path


def hugging_face(gguf: Path, folder: Path) -> Path:
    """The model of a GGUF as Hugging Face stores one."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    read = AutoModelForCausalLM.from_pretrained(**where)
    config = AutoConfig.from_pretrained(**where)
    model = AutoModelForCausalLM.from_config(config)  # the one that was read calls itself quantized and is not saved
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**where).save_pretrained(folder)
    return folder


@pytest.mark.hostile  # twenty minutes of two cores
@pytest.mark.model
def test_the_recipe_of_the_paper_ends_with_a_run_of_both_adapters(tmp_path: Path) -> None:
    gguf = llama.model_path(llama.BUILT_IN)
    given = {"PEARL": pearl(tmp_path / "pearl.json", 64), "BASE": hugging_face(gguf, tmp_path / "base")}
    given |= {"GGUF": gguf, "JUDGE": gguf}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    names = {name: str(value) for name, value in given.items()}
    recipe = (ROOT / "data/recipes/paper.sh").read_text(encoding="utf-8")
    commands = recipe.replace("crs run ", f"crs run -p n_profiles=4 --reports '{tmp_path / 'reports'}' ")
    subprocess.run(["sh", "-c", commands], cwd=tmp_path, env={**os.environ, **names, "PATH": path}, check=True)
    (folder,) = (tmp_path / "reports/runs").iterdir()
    run = Run(folder)
    assert run.info["status"] == "success"
    assert len(run.read("dialogues")) == 4
    for role in ("user", "recommender"):
        assert run.info["parameters"][f"{role}_adapter"].endswith(f"adapters/{role}/{role}.gguf")
