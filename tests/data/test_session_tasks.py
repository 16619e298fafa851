"""What a profile says of tasks reaches the model: where they come from, what stands before them, and what calibration must not see."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_models

from bitzones.run.session import Session
from bitzones.schema import profile_files
from bitzones.schema.errors import NotMeasuredError, TaskError
from bitzones.schema.profile import Profile

CHAT = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}<assistant>"


def problems(path: Path, count: int) -> Path:
    rows = [{"ID": f"n{n}", "Body": f"Tom had {n} pens.", "Question": "How many?", "Answer": str(n)} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def made(folder: Path, tasks: str, calibration: int = 60, template: str | None = None, source: str | None = None) -> Session:
    tiny_models.save(folder / "model")
    if template is not None:
        (folder / "model" / "chat_template.jinja").write_text(template, encoding="utf-8")
    path = folder / "own.toml"
    text = tiny_models.profile_text(
        source or str(folder / "model"), tasks=f"[[tasks]]\n{tasks}", sensitivity=f"[sensitivity]\ntokens = {calibration}"
    )
    path.write_text(text, encoding="utf-8")
    loaded: Profile = profile_files.load(str(path))
    return Session(loaded)


def test_a_file_of_ones_own_is_scored_shown_solved_and_calibrated_on_without_an_item_twice(tmp_path: Path) -> None:
    data = problems(tmp_path / "own.jsonl", 9)
    session = made(tmp_path, f'name = "mine"\npath = "{data}"\nlimit = 3\nfewshot = 2\ntake = "sample"', calibration=110)
    scored, asked = session.scored["mine"], session.asked["mine"]
    shown = "".join(f"{shot.prompt}{shot.answer}\n\n" for shot in scored.shots)
    assert len(scored.shots) == 2
    assert [item.prompt for item in asked.items] == [shown + item.prompt for item in scored.items]
    texts = [session.tokenizer.decode(sequence.ids, skip_special_tokens=True) for sequence in session.sensitivity_set.sequences]
    seen = {item.prompt for item in (*scored.items, *scored.shots)}
    assert len(seen) == 5
    assert texts
    assert not [text for text in texts if any(text.startswith(prompt) for prompt in seen)]


def test_the_seed_of_the_profile_is_that_of_the_sample(tmp_path: Path) -> None:
    data = problems(tmp_path / "own.jsonl", 40)
    session = made(tmp_path, f'name = "mine"\npath = "{data}"\nlimit = 5\ntake = "sample"')
    other = Session(session.profile.model_copy(update={"seed": 1}))
    again = Session(session.profile)
    assert session.scored == again.scored != other.scored


def test_a_chat_goes_through_the_model_s_own_template(tmp_path: Path) -> None:
    data = problems(tmp_path / "own.jsonl", 9)
    session = made(tmp_path, f'name = "mine"\npath = "{data}"\nlimit = 1\nchat_template = true', template=CHAT)
    (item,) = session.asked["mine"].items
    assert (item.prompt, item.answer) == ("<user>Question: Tom had 0 pens. How many?\nAnswer:<assistant>", "0")
    assert session.asked["mine"].chat_template


def test_a_missing_template_is_said_when_the_model_is_loaded(tmp_path: Path) -> None:
    data = problems(tmp_path / "own.jsonl", 9)
    session = made(tmp_path, f'name = "mine"\npath = "{data}"\nchat_template = true')
    with pytest.raises(TaskError, match="has no chat template"):
        _ = session.variants


def test_random_weights_load_and_refuse_what_reads_text(tmp_path: Path) -> None:
    data = problems(tmp_path / "own.jsonl", 9)
    source = f"random:{tmp_path / 'model' / 'config.json'}"
    session = made(tmp_path, f'name = "mine"\npath = "{data}"\nchat_template = true', source=source)
    assert session.scored["mine"].items
    assert session.variants.reference is not None
    for refuses in (lambda: session.asked, lambda: session.sensitivity_set):
        with pytest.raises(NotMeasuredError, match="random"):
            refuses()
