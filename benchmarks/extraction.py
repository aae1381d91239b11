"""A small task: take a fact out of a line. A worked example comes before each question.

Made by a generator with a fixed seed, so that every model and every form of it gets the same questions. The format was chosen so
that the default model in float32 is clearly better than naming any of the three facts, and is sometimes wrong: what is always
right shows no loss. Knows no tokenizer and no device.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

EXAMPLES = 1
ANSWER_TOKENS = 6
"""A continuation of so many tokens is read: enough for the longest answer."""

NAMES = [
    "Ada Lovelace",
    "Boris Keller",
    "Clara Moreau",
    "David Miller",
    "Elena Rossi",
    "Frank Weber",
    "Greta Larsen",
    "Henry Novak",
    "Irene Silva",
    "Jonas Lind",
    "Karin Fischer",
    "Louis Ortega",
]
CITIES = ["Paris", "London", "Berlin", "Madrid", "Rome", "Vienna", "Oslo", "Dublin", "Lisbon", "Athens", "Prague", "Warsaw"]
JOBS = ["doctor", "teacher", "farmer", "lawyer", "baker", "painter", "pilot", "nurse", "singer", "driver", "writer", "chemist"]
YEARS = range(1950, 2000)


@dataclass(frozen=True, slots=True)
class Question:
    prompt: str
    answer: str


def questions(count: int, seed: int = 5) -> list[Question]:
    """Each with examples of its own before it."""
    source = random.Random(seed)

    def one() -> Question:
        name, city, job, year = source.choice(NAMES), source.choice(CITIES), source.choice(JOBS), str(source.choice(YEARS))
        field, answer = source.choice([("city", city), ("job", job), ("year", year)])
        return Question(f"Name: {name}. City: {city}. Job: {job}. Year: {year}.\nQuestion: Which {field}? Answer:", answer)

    made = []
    for _ in range(count):
        *examples, last = [one() for _ in range(EXAMPLES + 1)]
        made.append(Question("".join(f"{example.prompt} {example.answer}\n\n" for example in examples) + last.prompt, last.answer))
    return made


def right(said: str, answer: str) -> bool:
    """The continuation begins with the answer, as a whole word."""
    return re.match(rf"\s*{re.escape(answer)}(?!\w)", said) is not None
