"""vLLM for CPU, in process through AsyncLLM (its own engine core runs beside it).

Set as measured best: both cores bound, tcmalloc and the wheel's OpenMP preloaded (catalogue.py), compiled rather than eager, prefix
caching on, priority scheduling so that it is told the same about background agents as llmos is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from client import Kind

from peers.stateless import Stateless

PRIORITY: dict[Kind, int] = {"interactive": 0, "normal": 0, "background": 10}  # lower goes first


class Vllm(Stateless):
    def __init__(self, peers: Path, options: dict[str, str]) -> None:
        self.model = str(peers / "models" / "hf")
        self.options = options
        self.requests = 0

    async def start(self) -> None:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self.engine = AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                model=self.model,
                dtype="bfloat16",
                max_model_len=4096,
                max_num_seqs=64,
                enable_prefix_caching=True,
                scheduling_policy=self.options.get("policy", "priority"),
                enforce_eager="eager" in self.options,
            )
        )

    async def stop(self) -> None:
        self.engine.shutdown()

    async def generate(self, tokens: Sequence[int], kind: Kind, **sampling: float) -> AsyncIterator[list[int]]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        self.requests += 1
        parameters = SamplingParams(ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.DELTA, **sampling)
        priority = PRIORITY[kind] if self.options.get("policy", "priority") == "priority" else 0
        name = f"request-{self.requests}"
        async for output in self.engine.generate({"prompt_token_ids": list(tokens)}, parameters, request_id=name, priority=priority):
            for sequence in output.outputs:
                yield list(sequence.token_ids)

    async def stream(self, tokens: Sequence[int], length: int, *, kind: Kind, more: bool) -> AsyncIterator[list[int]]:
        async for piece in self.generate(tokens, kind, temperature=0.0, max_tokens=length):
            yield piece

    async def samples(self, prompt: Sequence[int], copies: int, length: int) -> AsyncIterator[list[int]]:
        async for piece in self.generate(prompt, "normal", temperature=1.0, max_tokens=length, n=copies):
            yield piece

    async def answer(self, question: str) -> str:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.model)
        chat = [{"role": "user", "content": question}]
        tokens = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
        ids = [token async for piece in self.stream(tokens, 24, kind="normal", more=False) for token in piece]
        return str(tokenizer.decode(ids))
