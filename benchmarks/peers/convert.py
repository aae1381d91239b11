"""Turns the one GGUF of the default model into what each peer reads: the same weights everywhere.

Owns the conversion only. The quantized file is dequantized once to float32 (by transformers, so that llmos' own reader is
not its own judge), rounded once to bf16, and written as a Hugging Face directory and as a bf16 GGUF with the original's
metadata. Norms are vectors and stay float32 in the GGUF, as llama.cpp wants them; rounded to bf16 first, as everywhere else.
Those bf16 weights can be quantized again, to Q8_0 or Q4_0 (the token embedding, which is the head too, is Q8_0 in both, as in
the original). Q4_0 of what was Q4_1 loses a second time: it is there for its speed.

    convert.py SmolLM2-135M-Instruct.Q4_1.gguf --hf DIRECTORY --gguf FILE
    convert.py SmolLM2-135M-Instruct.Q4_1.gguf --gguf FILE --weights Q8_0
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import numpy as np

COUNTED = ("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")  # the writer adds its own
KINDS = {
    "BF16": gguf.LlamaFileType.MOSTLY_BF16,
    "Q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "Q4_0": gguf.LlamaFileType.MOSTLY_Q4_0,
}


def write_directory(source: Path, target: Path) -> None:
    """A Hugging Face directory: config.json, model.safetensors (bf16), the tokenizer with its chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    loaded = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    plain = {key: value for key, value in loaded.config.to_dict().items() if key not in ("quantization_config", "_name_or_path", "dtype")}
    model = LlamaForCausalLM(LlamaConfig(**plain))
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    model = model.to(torch.bfloat16)
    model.config.dtype = torch.bfloat16
    eos = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.config.eos_token_id = eos
    model.generation_config = GenerationConfig(bos_token_id=tokenizer.bos_token_id, eos_token_id=eos, pad_token_id=eos)
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def write_gguf(source: Path, target: Path, weights: str) -> None:
    """The same weights as a GGUF, in one of KINDS."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for key, field in reader.fields.items():
        if key.startswith(COUNTED):
            continue
        kind = field.types[0]
        element = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, sub_type=element)
    writer.add_file_type(KINDS[weights])
    for tensor in reader.tensors:
        full = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        bits = gguf.quants.quantize(full, gguf.GGMLQuantizationType.BF16)
        rounded = gguf.quants.dequantize(bits, gguf.GGMLQuantizationType.BF16).astype(np.float32).reshape(full.shape)
        if full.ndim == 1:
            writer.add_tensor(tensor.name, rounded)
            continue
        kind = gguf.GGMLQuantizationType["Q8_0" if tensor.name == "token_embd.weight" and weights != "BF16" else weights]
        writer.add_tensor(tensor.name, gguf.quants.quantize(rounded, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--hf", type=Path)
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--weights", choices=KINDS, default="BF16", help="of the GGUF")
    arguments = parser.parse_args()
    if arguments.hf:
        write_directory(arguments.source, arguments.hf)
    if arguments.gguf:
        write_gguf(arguments.source, arguments.gguf, arguments.weights)


if __name__ == "__main__":
    main()
