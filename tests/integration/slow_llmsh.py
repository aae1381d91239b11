"""llmsh over a dummy device that takes its time and writes words one can read: `slow_llmsh.py STEP LOAD [llmsh's own]`.

STEP is the seconds of a step, LOAD those of loading the model. Replies are "w0 w1 w2 ..." and end only at max_tokens, or at
once after a question that asks for `short`; a request for a command that says `list` gets `ps --json`.
"""

import sys
import time

from llmos.drivers.dummy import DummyDevice
from llmos.drivers.dummy_text import END
from llmos.kernel.device import Outcome, Row, Step
from llmos.services.init import catalogue
from llmos.shell.main import main

STEP, LOAD = float(sys.argv[1]), float(sys.argv[2])


class SlowDevice(DummyDevice):
    def __init__(self, *args: object, **more: object) -> None:
        time.sleep(LOAD)
        super().__init__(*args, **more)  # type: ignore[arg-type]

    def execute(self, step: Step) -> Outcome:
        time.sleep(STEP)
        return super().execute(step)

    def _sample(self, row: Row, context: list[int]) -> int:
        if 256 not in context:  # no chat: a request for a command, which the form lets end at its newline
            asked, _, done = bytes(token for token in context if token < 256).rpartition(b"\ncommand:")
            words = b" ps --json\n" if asked.endswith(b"list") else b" ps 'open\n"
            return words[len(done)] if len(done) < len(words) else END
        start = len(context) - context[::-1].index(256) + 1  # after <turn> and the letter of the role
        said = bytes(context[start:])
        question = bytes(token for token in context[:start] if token < 256)
        asked = question.removesuffix(b"a").rstrip().removesuffix(b"Summary:").rstrip()
        words = ("short. " if asked.endswith(b"short") else "".join(f"w{number} " for number in range(2000))).encode()
        return words[len(said)] if len(said) < len(words) else END


catalogue.DummyDevice = SlowDevice  # type: ignore[misc, assignment]
sys.exit(main(["--device", "dummy", *sys.argv[3:]]))
