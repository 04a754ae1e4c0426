// What a user calls a model that lies elsewhere: at Hugging Face, in an Ollama registry, behind a URL, or in a package.
#pragma once

#include <string>
#include <string_view>
#include <variant>

#include "base/result.h"

namespace plumb::cli {

// hf:OWNER/REPO[:QUANT], hf:OWNER/REPO/FILE.gguf, and addresses of huggingface.co and hf.co.
struct HuggingFaceName {
  std::string repository;  // OWNER/REPO
  std::string revision = "main";
  std::string file;          // a path in the repository; empty: chosen by the quantization
  std::string quantization;  // empty: Q4_K_M, else the first file
};

// [HOST/][NAMESPACE/]MODEL[:TAG]
struct OllamaName {
  std::string host;  // empty: the usual registry
  std::string space = "library";
  std::string model;
  std::string tag = "latest";
};

struct Address {
  std::string url;  // http:// or https://
};

using Reference = std::variant<HuggingFaceName, OllamaName, Address>;

// Reads what follows one of the forms above; a bare word is a model of Ollama's. Errors say what was expected.
Result<Reference> parse_reference(std::string_view text);

// Whether a word is a reference and no path: it begins as one, or is an Ollama name with a tag.
bool is_reference(std::string_view text);

// The same text for all spellings of one reference; without what may be secret in a URL.
std::string canonical(const Reference& reference);

// Where Hugging Face and Ollama's registry are asked: HF_ENDPOINT and OLLAMA_REGISTRY, or the usual addresses. No slash at
// the end.
std::string hugging_face_endpoint();
std::string ollama_registry();

// Whether a file of a repository has this quantization by its name: "a/Model-Q4_K_M.gguf",
// "model.q4_k_m-00001-of-00003.gguf". Letter case does not matter. A folder of that name matches as well, and so does
// the file's own name, with or without .gguf.
bool has_quantization(std::string_view file, std::string_view quantization);

}  // namespace plumb::cli
