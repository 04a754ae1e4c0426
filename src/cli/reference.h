// What a user calls a model that lies elsewhere: at Hugging Face, in an Ollama registry, or behind a URL.
#pragma once

#include <string>
#include <string_view>
#include <variant>

#include "base/result.h"
#include "store/model_store.h"
#include "store/reference.h"

namespace plumb::cli {

using store::HuggingFaceName;
using store::OllamaName;

struct Address {
  std::string url;  // http:// or https://
};

using Reference = std::variant<HuggingFaceName, OllamaName, Address>;

// Reads a name of store/reference.h, or an address. Those of huggingface.co, hf.co and ollama.com become such names. Errors
// say what was expected.
Result<Reference> parse_reference(std::string_view text);

// Whether a word is a reference and no path: it begins as one, or is an Ollama name with a tag.
bool is_reference(std::string_view text);

// The same text for all spellings of one reference; without what may be secret in a URL.
std::string canonical(const Reference& reference);

// The kept model that has this name, or was fetched by this reference. Error: there is none.
Result<store::KeptModel> find_kept(std::string_view text);

// Where Hugging Face and Ollama's registry are asked: HF_ENDPOINT and OLLAMA_REGISTRY, or the usual addresses. No slash at
// the end.
std::string hugging_face_endpoint();
std::string ollama_registry();

}  // namespace plumb::cli
