"""A generated multiple-choice science set, so that the default run has something to lose when weights lose bits.

Items follow the schema of ARC (Clark et al. 2018, arXiv:1803.05457): ``id, question, choices{text,label}, answerKey``. Facts are shared
between the splits (knowledge is what is being tested); *question templates* are not: the last three of every relation are asked in the
test split only. It does not know about models, tokenizers or scoring.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypedDict

__all__ = ["CHOICES", "RELATIONS", "Choices", "Relation", "ScienceItem", "generate", "stream"]

Split = Literal["train", "test"]

TEST_TEMPLATES = 3
"""Templates of each relation that the test split keeps for itself (the last ones listed)."""

CHOICES = 4
"""Answers offered per item, one of them right: chance is 25%."""

_BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=[aeiou])")

LABELS = ("A", "B", "C", "D")


class Choices(TypedDict):
    """The answers offered, and their labels."""

    text: list[str]
    label: list[str]


class ScienceItem(TypedDict):
    """One item in ARC's schema."""

    id: str
    question: str
    choices: Choices
    answerKey: str


@dataclass(frozen=True)
class Relation:
    """One kind of fact: ``facts`` maps a subject to its single right answer; wrong answers come from the same relation."""

    name: str
    templates: tuple[str, ...]
    facts: dict[str, str]

    def templates_of(self, split: Split) -> tuple[str, ...]:
        return self.templates[:-TEST_TEMPLATES] if split == "train" else self.templates[-TEST_TEMPLATES:]

    @property
    def answers(self) -> list[str]:
        return sorted(set(self.facts.values()))


def _invert(groups: dict[str, str]) -> dict[str, str]:
    return {subject: answer for answer, subjects in groups.items() for subject in subjects.split(", ")}


RELATIONS: tuple[Relation, ...] = (
    Relation(
        "group",
        (
            "Which group of animals does a {s} belong to?",
            "A {s} is classified as what kind of animal?",
            "What type of animal is a {s}?",
            "Scientists place the {s} in which animal group?",
            "A student sees a {s}. Which group of animals is it part of?",
            "To which group does the {s} belong?",
            "What kind of animal is a {s}?",
            "Which type of animal do scientists call a {s}?",
        ),
        _invert(
            {
                "mammal": "dog, cow, whale, bat, horse, rabbit, bear, fox, deer",
                "bird": "eagle, owl, duck, penguin, robin, goose, swan",
                "fish": "trout, shark, salmon, tuna, cod",
                "reptile": "snake, lizard, turtle, crocodile",
                "insect": "bee, ant, beetle, butterfly, mosquito",
                "amphibian": "frog, toad, newt, salamander",
            }
        ),
    ),
    Relation(
        "young",
        (
            "What is a young {s} called?",
            "What name is given to the baby of a {s}?",
            "The young of a {s} is known as what?",
            "Which word names a baby {s}?",
            "A {s} has a baby. What is the baby called?",
            "What is a baby {s} called?",
            "What name is given to a young {s}?",
            "Which word names the young of a {s}?",
        ),
        {
            "cow": "calf",
            "dog": "puppy",
            "cat": "kitten",
            "horse": "foal",
            "sheep": "lamb",
            "goat": "kid",
            "pig": "piglet",
            "bear": "cub",
            "deer": "fawn",
            "duck": "duckling",
            "goose": "gosling",
            "frog": "tadpole",
            "swan": "cygnet",
            "kangaroo": "joey",
            "owl": "owlet",
            "butterfly": "caterpillar",
        },
    ),
    Relation(
        "home",
        (
            "Where does a {s} live?",
            "What is the home of a {s} called?",
            "In which place does a {s} make its home?",
            "A {s} rests in what kind of home?",
            "Which home is built or used by a {s}?",
            "What kind of home does a {s} live in?",
            "Which place is the home of a {s}?",
            "In what home does a {s} rest?",
        ),
        {
            "bee": "hive",
            "spider": "web",
            "ant": "anthill",
            "fox": "den",
            "rabbit": "burrow",
            "beaver": "lodge",
            "eagle": "nest",
            "horse": "stable",
            "pig": "sty",
            "bat": "cave",
            "trout": "river",
        },
    ),
    Relation(
        "covering",
        (
            "What covers the body of a {s}?",
            "Which covering protects the body of a {s}?",
            "The body of a {s} is covered with what?",
            "A {s} has what kind of body covering?",
            "What covering would you see on a {s}?",
            "What kind of covering does a {s} have?",
            "Which covering would you see on the body of a {s}?",
            "What is the body of a {s} covered with?",
        ),
        _invert(
            {
                "fur": "dog, cat, rabbit, bear, fox",
                "feathers": "eagle, owl, duck, penguin, robin",
                "scales": "trout, salmon, snake, lizard",
                "a hard shell": "turtle, snail, clam, crab",
            }
        ),
    ),
    Relation(
        "tool",
        (
            "What does a {s} measure?",
            "A {s} is a tool used to measure what?",
            "Which quantity is measured with a {s}?",
            "A student uses a {s} in class. What is being measured?",
            "Scientists use a {s} to find what?",
            "Which quantity does a {s} measure?",
            "What is measured with a {s}?",
            "A student uses a {s} to measure what?",
        ),
        {
            "thermometer": "temperature",
            "ruler": "length",
            "balance": "mass",
            "clock": "time",
            "barometer": "air pressure",
            "rain gauge": "rainfall",
            "compass": "direction",
            "anemometer": "wind speed",
            "ammeter": "electric current",
            "measuring cup": "liquid volume",
            "protractor": "angle",
            "hygrometer": "humidity",
            "seismograph": "ground shaking",
        },
    ),
    Relation(
        "organ",
        (
            "What is the main job of the {s}?",
            "In the human body, what does the {s} do?",
            "What is the function of the {s} in the body?",
            "Which job is done by the {s}?",
            "The {s} helps a person in what way?",
            "What is the main function of the {s}?",
            "In the body, which job does the {s} do?",
            "What does the {s} do in the human body?",
        ),
        {
            "heart": "pumps blood",
            "lung": "takes in oxygen",
            "stomach": "breaks down food",
            "brain": "controls the body",
            "kidney": "cleans the blood",
            "skin": "keeps germs out",
            "skeleton": "supports the body",
            "muscle": "moves the bones",
            "eye": "senses light",
            "ear": "senses sound",
            "tongue": "senses taste",
            "nose": "senses smell",
        },
    ),
    Relation(
        "planet",
        (
            "Which planet {s}?",
            "In our solar system, which planet {s}?",
            "What is the name of the planet that {s}?",
            "A student reads about a planet that {s}. Which planet is it?",
            "Scientists study the planet that {s}. What is it called?",
            "What planet {s}?",
            "In our solar system, what is the planet that {s} called?",
            "A student asks which planet {s}. What is it?",
        ),
        {
            "is closest to the Sun": "Mercury",
            "is the largest": "Jupiter",
            "has the brightest rings": "Saturn",
            "is called the red planet": "Mars",
            "has liquid oceans": "Earth",
            "is the hottest": "Venus",
            "is farthest from the Sun": "Neptune",
            "spins on its side": "Uranus",
        },
    ),
    Relation(
        "energy",
        (
            "Which form of energy does a {s} mainly produce?",
            "A {s} is made to produce which form of energy?",
            "What kind of energy does a working {s} give off?",
            "The purpose of a {s} is to produce what?",
            "A {s} changes energy into which useful form?",
            "What form of energy is a {s} made to produce?",
            "What kind of energy does a {s} mainly produce?",
            "Which useful form of energy does a {s} give off?",
        ),
        _invert(
            {
                "light": "lamp, flashlight, lantern",
                "sound": "speaker, radio, bell, drum",
                "motion": "fan, motor, drill",
                "heat": "heater, oven, toaster, iron",
                "electricity": "solar panel, generator, battery",
            }
        ),
    ),
    Relation(
        "change",
        (
            "What happens during {s}?",
            "Which change of state is called {s}?",
            "In science, {s} means what?",
            "What change takes place in {s}?",
            "A student watches {s}. What happens?",
            "What happens in {s}?",
            "In science, which change is called {s}?",
            "What change of state happens during {s}?",
        ),
        {
            "melting": "a solid becomes a liquid",
            "freezing": "a liquid becomes a solid",
            "evaporation": "a liquid becomes a gas",
            "condensation": "a gas becomes a liquid",
            "sublimation": "a solid becomes a gas",
        },
    ),
    Relation(
        "plant",
        (
            "What is the main job of the {s} of a plant?",
            "How does the {s} help a plant?",
            "What does the {s} do for a plant?",
            "Which job is done by the {s} of a plant?",
            "What is the function of the {s} in a plant?",
            "What is the main function of the {s} of a plant?",
            "Which job does the {s} do for a plant?",
            "What does the {s} of a plant do?",
        ),
        {
            "root": "absorbs water from soil",
            "leaf": "makes food from sunlight",
            "stem": "carries water upward",
            "flower": "attracts pollinators",
            "seed": "grows into a new plant",
            "fruit": "protects the seeds",
        },
    ),
    Relation(
        "material",
        (
            "What material is a {s} usually made of?",
            "Which material is used to make a {s}?",
            "A {s} is most often made from what?",
            "A factory makes a {s}. Which material does it need most?",
            "From what material would you make a {s}?",
            "Which material is a {s} usually made from?",
            "What material is most often used to make a {s}?",
            "A {s} is usually made of what?",
        ),
        {
            "window": "glass",
            "tire": "rubber",
            "nail": "steel",
            "sweater": "wool",
            "book": "paper",
            "wedding ring": "gold",
            "pencil": "wood",
            "towel": "cotton",
            "wire": "copper",
            "soda can": "aluminum",
            "toy brick": "plastic",
            "flower pot": "clay",
            "belt": "leather",
        },
    ),
    Relation(
        "scientist",
        (
            "What does a {s} study?",
            "A {s} is a scientist who studies what?",
            "Which subject is studied by a {s}?",
            "A person works as a {s}. What does this person study?",
            "What would a {s} most likely study?",
            "Which subject does a {s} study?",
            "What is studied by a {s}?",
            "A {s} would most likely study what?",
        ),
        {
            "geologist": "rocks",
            "astronomer": "stars",
            "meteorologist": "weather",
            "botanist": "plants",
            "zoologist": "animals",
            "chemist": "substances",
            "physicist": "forces",
            "ecologist": "ecosystems",
            "paleontologist": "fossils",
            "oceanographer": "oceans",
            "geneticist": "genes",
            "entomologist": "insects",
        },
    ),
    Relation(
        "symbol",
        (
            "What is the chemical symbol for {s}?",
            "Which symbol stands for the element {s}?",
            "On the periodic table, {s} is shown by which symbol?",
            "Scientists write {s} with which symbol?",
            "A student looks up the element {s}. Which symbol is it?",
            "Which chemical symbol stands for {s}?",
            "What symbol do scientists write for the element {s}?",
            "On the periodic table, what is the symbol for {s}?",
        ),
        {
            "oxygen": "O",
            "hydrogen": "H",
            "carbon": "C",
            "iron": "Fe",
            "gold": "Au",
            "silver": "Ag",
            "sodium": "Na",
            "helium": "He",
            "copper": "Cu",
            "lead": "Pb",
            "nitrogen": "N",
            "calcium": "Ca",
            "zinc": "Zn",
            "tin": "Sn",
        },
    ),
    Relation(
        "cause",
        (
            "What causes {s}?",
            "What is the main cause of {s}?",
            "Scientists explain {s} by what?",
            "Which of these is the reason for {s}?",
            "A student asks why there is such a thing as {s}. What is the cause?",
            "Which of these causes {s}?",
            "What is the reason for {s}?",
            "Scientists say that the main cause of {s} is what?",
        ),
        {
            "day and night": "the rotation of Earth",
            "the seasons": "the tilt of Earth",
            "the tides": "the gravity of the Moon",
            "a rainbow": "the bending of sunlight",
            "an earthquake": "the sliding of plates",
            "thunder": "the heating of air by lightning",
            "rust": "the reaction of iron with oxygen",
            "a canyon": "the erosion by a river",
            "an eclipse of the Sun": "the shadow of the Moon",
        },
    ),
)


def _item(rng: random.Random, relation: Relation, subject: str, template: str, item_id: str) -> ScienceItem:
    right = relation.facts[subject]
    texts = [right, *rng.sample([answer for answer in relation.answers if answer != right], CHOICES - 1)]
    rng.shuffle(texts)
    return {
        "id": item_id,
        "question": _BEFORE_VOWEL.sub(r"\1n ", template.format(s=subject)),
        "choices": {"text": texts, "label": list(LABELS)},
        "answerKey": LABELS[texts.index(right)],
    }


def stream(seed: int, split: Split) -> Iterator[ScienceItem]:
    """Endless items, each (relation, subject) equally likely; the same seed gives the same items."""
    rng = random.Random(f"science_mini/{split}/{seed}")
    facts = [(relation, subject) for relation in RELATIONS for subject in relation.facts]
    number = 0
    while True:
        relation, subject = rng.choice(facts)
        template = rng.choice(relation.templates_of(split))
        yield _item(rng, relation, subject, template, f"science-{split}-{number:04d}")
        number += 1


def generate(seed: int, split: Split, count: int) -> list[ScienceItem]:
    """``count`` items with different questions.

    Raises:
        ValueError: the facts and templates of ``split`` make fewer than ``count`` different questions.
    """
    rng = random.Random(f"science_mini/{split}/{seed}/fixed")
    asked = [(r, s, t) for r in RELATIONS for s in r.facts for t in r.templates_of(split)]
    if count > len(asked):
        raise ValueError(f"science_mini has {len(asked)} different {split} questions, {count} asked")
    return [_item(rng, r, s, t, f"science-{split}-{n:04d}") for n, (r, s, t) in enumerate(rng.sample(asked, count))]
