"""Which sources each set of a profile is made of, and where they are found on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from bitzones.schema.profile_sections import HUB_ID
from bitzones.schema.text_settings import TASKS, Domain, TextSource

if TYPE_CHECKING:
    from bitzones.schema.profile import Profile

__all__ = ["SETS", "SetName", "is_unseen", "reads_text", "require_tasks", "resolved", "sets", "sources"]

SetName: TypeAlias = Literal["sensitivity", "held_out", "calibration", "tuning"]
SETS: tuple[SetName, ...] = ("sensitivity", "held_out", "calibration")
"""Sets that every profile has settings of."""

TEXT_FOLDER = "text"
"""Inside a data folder, where files of text are looked for besides the folder itself."""

SourceT = TypeVar("SourceT", TextSource, Domain)


def sources(profile: Profile, name: SetName) -> tuple[TextSource, ...]:
    """What a set is made of: its own ``text``, else what ``[text]`` names, else what the sensitivity set is made of, else the tasks."""
    own: tuple[TextSource, ...] = getattr(profile, name).text
    if name == "tuning":
        return own or sources(profile, "calibration")
    if own or (name == "sensitivity" and profile.text is None):
        return own or (TextSource(source=TASKS),)
    if profile.text is not None and (named := profile.text.sensitivity) is not None:
        if name == "calibration" and profile.text.calibration is not None:
            named = profile.text.calibration
        return (TextSource(source=named, column=profile.text.column, split=profile.text.split),)
    return (TextSource(source=TASKS),) if name == "sensitivity" else sources(profile, "sensitivity")


def sets(profile: Profile) -> tuple[SetName, ...]:
    """The sets that a profile has."""
    return SETS if profile.tuning is None else (*SETS, "tuning")


def reads_text(profile: Profile) -> bool:
    """Whether anything but the tasks is read."""
    return bool(profile.domains) or any(source.source != TASKS for name in sets(profile) for source in sources(profile, name))


def is_unseen(profile: Profile, domain: Domain) -> bool:
    """Whether no set of a run takes documents from a domain's source."""
    return all(source.source != domain.source for name in sets(profile) for source in sources(profile, name))


def require_tasks(profile: Profile) -> None:
    """Refuse a profile whose sequences would come from tasks that it has not.

    Raises:
        ValueError: it has none.
    """
    if profile.tasks:
        return
    if any(source.source == TASKS for name in sets(profile) for source in sources(profile, name)):
        raise ValueError(
            "give at least one of [[tasks]], or text.sensitivity or [[sensitivity.text]]: sequences have to come from somewhere"
        )
    if wrong := [domain.name for domain in profile.domains if domain.source == TASKS]:
        raise ValueError(f"domains: {wrong[0]} takes the tasks' train splits, and there are no [[tasks]]")


def resolved(profile: Profile, data: Path | None) -> dict[str, Any]:
    """Keys of a profile whose sources are found in a data folder, or replaced where it has none, and what they then are."""
    changed: dict[str, Any] = {
        name: section.model_copy(update={"text": tuple(_found(source, data) for source in section.text)})
        for name in sets(profile)
        if (section := getattr(profile, name)).text
    }
    return changed | {"domains": tuple(_found(domain, data) for domain in profile.domains)}


def _found(source: SourceT, data: Path | None) -> SourceT:
    for place in _places(source.source, data):
        if place.exists():
            return source.model_copy(update={"source": str(place), "otherwise": None})
    there = Path(source.source).expanduser().exists() or source.otherwise is None
    return source.model_copy(update={"source": source.source if there else source.otherwise, "otherwise": None})


def _places(name: str, data: Path | None) -> list[Path]:
    """Where a data folder may have a source: under its name, in its folder of text, or under the second half of its name on the hub."""
    if data is None or Path(name).is_absolute() or name.startswith(("embedded:", "memory:")):
        return []
    repository, _, config = name.partition(":")
    if HUB_ID.fullmatch(repository) and not config:
        return [data / name, data / repository.partition("/")[2]]
    return [data / name, data / TEXT_FOLDER / name]
