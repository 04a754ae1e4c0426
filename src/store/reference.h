// What a user calls a model at Hugging Face or in an Ollama registry.
#pragma once

#include <string>
#include <string_view>
#include <variant>

#include "base/result.h"

namespace plumb::store {

// hf:OWNER/REPO[:QUANT] and hf:OWNER/REPO/FILE.gguf.
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

// Reads OWNER/REPO[:QUANT], OWNER/REPO/FILE.gguf, and OWNER/REPO/(blob|resolve|raw|tree)/REVISION[/FILE.gguf] as addresses
// have it. whole: what the user typed, for messages.
Result<HuggingFaceName> parse_hugging_face(std::string_view whole, std::string_view path);
Result<OllamaName> parse_ollama(std::string_view whole, std::string_view path);

using Reference = std::variant<HuggingFaceName, OllamaName>;

// Reads one of the forms above; a bare word is a model of Ollama's. Errors say what was expected.
Result<Reference> parse_reference(std::string_view text);

// Whether a word begins as a name at Hugging Face does.
bool begins_hugging_face(std::string_view text);

// The same text for all spellings of one reference.
std::string canonical(const HuggingFaceName& name);
std::string canonical(const OllamaName& name);

// Whether a file of a repository has this quantization by its name: "a/Model-Q4_K_M.gguf",
// "model.q4_k_m-00001-of-00003.gguf". Letter case does not matter. A folder of that name matches as well, and so does
// the file's own name, with or without .gguf.
bool has_quantization(std::string_view file, std::string_view quantization);

}  // namespace plumb::store
