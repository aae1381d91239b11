"""A small task: take a fact out of a sentence. Two worked examples come before each question.

Made by a generator with a fixed seed, so that every model and every form of it gets the same questions. The format was chosen so
that the default model in float32 is clearly better than naming any of the three facts, and is sometimes wrong: what is always
right shows no loss. Knows no tokenizer and no device.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

EXAMPLES = 2
ANSWER_TOKENS = 6
"""A continuation of so many tokens is read: enough for the longest answer."""

NAMES = ["Ada", "Boris", "Clara", "David", "Elena", "Frank", "Greta", "Henry", "Irene", "Jonas", "Karin", "Louis"]
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
        name, city, job, year = source.choice(NAMES), source.choice(CITIES), source.choice(JOBS), source.choice(YEARS)
        question, answer = source.choice(
            [(f"Which city is {name} from?", city), (f"What is the job of {name}?", job), (f"In which year was {name} born?", str(year))]
        )
        return Question(f"{name} is a {job} from {city}, born in {year}.\nQuestion: {question} Answer:", answer)

    made = []
    for _ in range(count):
        *examples, last = [one() for _ in range(EXAMPLES + 1)]
        made.append(Question("".join(f"{example.prompt} {example.answer}\n\n" for example in examples) + last.prompt, last.answer))
    return made


def right(said: str, answer: str) -> bool:
    """The continuation begins with the answer, as a whole word."""
    return re.match(rf"\s*{re.escape(answer)}(?!\w)", said) is not None
