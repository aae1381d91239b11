"""The agents that come with llmos, on tasks whose answers are known: how many replies are whole, how many right, how fast.

    python benchmarks/agents.py [--model NAME] [--json]

Every task runs as a user would run it, over the whole system, AT_ONCE at a time; `map` runs those of `extract` in one process, a line each.
Whole: the process ended with status 0 (of extract, that its JSON fits the schema, too). Right: what is known stands in the reply. A
summary is right if it is shorter than its text and names what the text is about, which says little. The third way in which files are
asked for is in none of the agent's examples.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace

from overhead import commit
from schemas import problem

import llmos

AT_ONCE = 8
CAPITALS = {
    "France": "Paris", "Norway": "Oslo", "Japan": "Tokyo", "Egypt": "Cairo", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin",
    "Austria": "Vienna", "Portugal": "Lisbon", "Greece": "Athens", "Russia": "Moscow", "China": "Beijing", "Cuba": "Havana", "Peru": "Lima",
    "Kenya": "Nairobi", "Ireland": "Dublin", "Finland": "Helsinki", "Sweden": "Stockholm", "Denmark": "Copenhagen", "Poland": "Warsaw",
}  # fmt: skip
SUMS = ("19 + 74", "8 * 7", "144 / 12", "250 - 75", "33 + 44 + 55", "(3 + 4) * 2", "12 * 12", "1000 - 1", "81 / 9", "17 * 23",
        "5 + 6 * 7", "99 + 1", "64 / 8", "15 * 15", "700 + 77", "2 * 2 * 2", "(10 - 4) * 5", "48 / 6", "123 + 456", "90 - 45")  # fmt: skip
PEOPLE = (
    ("Anna Berg is 34 years old and lives in Oslo.", "Anna Berg", 34, "Oslo"),
    ("Tom Miller, 61, has lived in Leeds all his life.", "Tom Miller", 61, "Leeds"),
    ("In Lima there is a baker of 45 whose name is Rosa Diaz.", "Rosa Diaz", 45, "Lima"),
    ("My brother Karl turned 29 last week. His flat is in Berlin.", "Karl", 29, "Berlin"),
    ("At the age of 70, Maria Rossi moved to Rome.", "Maria Rossi", 70, "Rome"),
    ("Kenji is a student of 21 from Tokyo.", "Kenji", 21, "Tokyo"),
    ("The oldest of them is Ada King: 88, from Dublin.", "Ada King", 88, "Dublin"),
    ("Madrid is the home of Luis Ortega, who is 52.", "Luis Ortega", 52, "Madrid"),
    ("Nina Holm (39), Copenhagen.", "Nina Holm", 39, "Copenhagen"),
    ("A teacher in Warsaw, Jan Nowak, became 47 in May.", "Jan Nowak", 47, "Warsaw"),
)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 130},
        "city": {"type": "string", "maxLength": 40},
    },
    "required": ["name", "age", "city"],
    "additionalProperties": False,
}
TEXTS = {
    "bridge": (
        "The old bridge over the river was closed on Monday. Engineers had found cracks in two of its arches."
        " The town will repair it until the autumn, and until then the bus goes round by the mill. "
        "Shopkeepers on the far side fear for their trade."
    ),
    "library": (
        "The library opens again on Saturday after a year of work. It has a new reading room, a lift and a "
        "cellar for old maps. Children get a floor of their own. Whoever comes on the first day is given a "
        "book, said the librarian."
    ),
    "storm": (
        "A storm took the roofs of nine houses in the valley during the night. Nobody was hurt. The fire "
        "brigade worked until the morning, and the school stays shut today. More wind is expected on "
        "Thursday, the weather service says."
    ),
    "apple": (
        "This year the apple harvest is the smallest in ten years. Frost in April killed most of the blossom."
        " Growers ask the state for help, and prices in the shops have risen by a third. Next year may be "
        "better, since the trees have rested."
    ),
    "train": (
        "The night train to Vienna will run again from December. It leaves at nine in the evening and arrives"
        " before eight. A bed costs sixty euros. The railway had stopped it five years ago because too few "
        "people took it."
    ),
}
NOTES = {
    "whales.txt": "Whales are the largest animals of the sea.",
    "bread.txt": "Bread needs flour, water, salt and time.",
    "chess.txt": "In chess the queen is the strongest piece.",
    "tea.txt": "Green tea is best with water at 80 degrees.",
    "stars.txt": "The sun is a star of middle size.",
}
QUESTIONS = {"whales": "whales.txt", "flour": "bread.txt", "queen": "chess.txt", "tea": "tea.txt", "sun": "stars.txt"}
FORMS = ("Which file in /home speaks of {}?", "In which file in /home is the word {}?", "Where did I write about {}?")


@dataclass(slots=True)
class Row:
    agent: str
    asked: int = 0
    whole: int = 0
    right: int = 0
    tokens: int = 0
    seconds: float = 0.0
    each: float = 0.0
    """Median seconds of one."""
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Task:
    text: str
    right: Callable[[str], bool]
    schema: object = None


def says(*words: str) -> Callable[[str], bool]:
    return lambda reply: all(word.lower() in reply.lower() for word in words)


def is_person(name: str, age: int, city: str) -> Callable[[str], bool]:
    return lambda reply: json.loads(reply) == {"name": name, "age": age, "city": city}


def is_summary(word: str, most: int) -> Callable[[str], bool]:
    return lambda reply: word in reply.lower() and len(reply) < most


def is_value(value: float) -> Callable[[str], bool]:
    return lambda reply: reply in (str(value), f"{value:g}")


TASKS: dict[str, list[Task]] = {
    "chat": [Task(f"What is the capital of {country}?", says(capital)) for country, capital in CAPITALS.items()],
    "summarise": [Task(text, is_summary(word, len(text))) for word, text in TEXTS.items()],
    "calculator": [Task(f"What is {each}?", is_value(eval(each))) for each in SUMS],
    "extract": [Task(text, is_person(name, age, city), PERSON) for text, name, age, city in PEOPLE],
    "files": [Task(form.format(word), says(name)) for word, name in QUESTIONS.items() for form in FORMS],
}


async def run(system: llmos.System, agent: str, tasks: list[Task], model: str | None) -> Row:
    row, gate, times = Row(agent, len(tasks)), asyncio.Semaphore(AT_ONCE), []

    async def one(task: Task) -> None:
        async with gate:
            began = time.monotonic()
            child = await system.spawn(agent, task.text, stdin="", model=model, schema=task.schema)
            said, end = (await child.stdout.read()).strip(), await child.wait()
            times.append(time.monotonic() - began)
        row.tokens += end.usage.tokens
        judge(row, task, said, whole=end.status == 0)

    began = time.monotonic()
    await asyncio.gather(*map(one, tasks))
    row.seconds, row.each = time.monotonic() - began, statistics.median(times)
    return row


def judge(row: Row, task: Task, said: str, *, whole: bool) -> None:
    whole = whole and (task.schema is None or problem(json.loads(said), task.schema) is None)
    right = whole and task.right(said)
    row.whole += whole
    row.right += right
    if not right:
        row.wrong.append(f"{task.text[:60]!r} -> {said[:80]!r}")


async def run_map(system: llmos.System, tasks: list[Task], model: str | None) -> Row:
    row, began = Row("map extract", len(tasks)), time.monotonic()
    agent = replace(await system.agent("map"), each="extract")
    child = await system.spawn(agent, stdin="".join(f"{task.text}\n" for task in tasks), model=model, schema=tasks[0].schema)
    said, end = await child.stdout.read(), await child.wait()
    row.seconds = row.each = time.monotonic() - began
    row.tokens = end.usage.tokens  # its children's, too
    lines = said.removesuffix("\n").split("\n")
    if len(lines) == len(tasks):
        for task, line in zip(tasks, lines, strict=True):
            judge(row, task, line, whole=end.status == 0)
    return row


async def measure(model: str | None) -> tuple[str, list[Row]]:
    async with llmos.boot(model=model) as system:
        name = (await (await system.open()).info()).model
        for path, text in NOTES.items():
            await system.files.write(f"/home/{path}", text)
        rows = [await run(system, agent, tasks, model) for agent, tasks in TASKS.items()]
        rows.append(await run_map(system, TASKS["extract"], model))
    return name, rows


def table(model: str, rows: list[Row]) -> str:
    machine = f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}; commit {commit()}; {AT_ONCE} at once"
    lines = [f"machine  {machine}", f"model    {model}", "", f"{'agent':<12} asked whole right  tokens  seconds  one, median s"]
    lines += [f"{r.agent:<12} {r.asked:>5} {r.whole:>5} {r.right:>5} {r.tokens:>7} {r.seconds:>8.2f} {r.each:>10.2f}" for r in rows]
    return "\n".join([*lines, "", *(f"{row.agent}: {each}" for row in rows for each in row.wrong)])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    model, rows = asyncio.run(measure(given.model))
    print(json.dumps({"model": model, "rows": [asdict(row) for row in rows]}) if given.json else table(model, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
