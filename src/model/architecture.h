// The architectures, one file each. An architecture reads its hyper-parameters and emits the Plan that computes it;
// model.cpp holds the table of them.
#pragma once

#include <string_view>
#include <vector>

#include "base/result.h"
#include "gguf/file.h"
#include "model/model.h"
#include "plan/plan.h"

namespace plumb::model {

// What an architecture makes of a file.
struct Draft {
  HyperParameters parameters;
  plan::Plan plan;
  std::vector<std::string_view> unused_tensors;  // views of the file
};

// LLaMA 1 to 3, TinyLlama, Mistral, SmolLM: RMS norm, rotary embedding of adjacent pairs, grouped-query attention, SwiGLU.
Result<Draft> build_llama(const gguf::File& file);
// Qwen 2 and 2.5: as llama with a bias on q, k and v, and rotary embedding of halves.
Result<Draft> build_qwen2(const gguf::File& file);
// Qwen 3: as llama with an RMS norm of every q and k head before the rotary embedding of halves.
Result<Draft> build_qwen3(const gguf::File& file);

}  // namespace plumb::model
