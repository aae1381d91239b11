"""Turns the one GGUF of the default model into what each peer reads: the same weights everywhere.

Owns the conversion only. The quantized file is dequantized once to float32 (by transformers, so that llmos' own reader is
not its own judge), rounded once to bf16, and written as a Hugging Face directory and as a bf16 GGUF with the original's
metadata. Norms are vectors and stay float32 in the GGUF, as llama.cpp wants them; rounded to bf16 first, as everywhere else.

    convert.py SmolLM2-135M-Instruct.Q4_1.gguf --hf DIRECTORY --gguf FILE
"""

from __future__ import annotations

import argparse
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

COUNTED = ("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")  # the writer adds its own


def write_directory(source: Path, target: Path) -> None:
    """A Hugging Face directory: config.json, model.safetensors (bf16), the tokenizer with its chat template."""
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


def write_gguf(source: Path, target: Path) -> None:
    """The same weights as a GGUF in bf16."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for key, field in reader.fields.items():
        if key.startswith(COUNTED):
            continue
        kind = field.types[0]
        element = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, sub_type=element)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    for tensor in reader.tensors:
        full = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        bits = gguf.quants.quantize(full, gguf.GGMLQuantizationType.BF16)
        if full.ndim == 1:
            writer.add_tensor(
                tensor.name, gguf.quants.dequantize(bits, gguf.GGMLQuantizationType.BF16).astype(np.float32).reshape(full.shape)
            )
        else:
            writer.add_tensor(tensor.name, bits, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--hf", type=Path, required=True)
    parser.add_argument("--gguf", type=Path, required=True)
    arguments = parser.parse_args()
    write_directory(arguments.source, arguments.hf)
    write_gguf(arguments.source, arguments.gguf)


if __name__ == "__main__":
    main()
