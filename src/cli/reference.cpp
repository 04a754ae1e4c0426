#include "cli/reference.h"

#include <curl/curl.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <span>

#include "base/letter_case.h"
#include "cli/sha256.h"

namespace plumb::cli {

namespace {

// A part of an address, without its escapes; empty where there is none.
std::string address_part(CURLU* parsed, CURLUPart part) {
  char* text = nullptr;
  if (curl_url_get(parsed, part, &text, CURLU_URLDECODE) != CURLUE_OK) return {};
  std::string result(text);
  curl_free(text);
  return result;
}

// Whether a path is OWNER/REPO/(resolve|blob|raw)/REVISION/FILE.
bool is_file_of_repository(std::string_view path) {
  for (const std::string_view kind : {"/resolve/", "/blob/", "/raw/"}) {
    const std::size_t at = path.find(kind);
    if (at == std::string_view::npos) continue;
    const std::string_view repository = path.substr(0, at), rest = path.substr(at + kind.size());
    if (std::ranges::count(repository, '/') == 1 && rest.find('/') != std::string_view::npos) return true;
  }
  return false;
}

template <class Name>
Result<Reference> as_reference(Result<Name> name) {
  if (!name) return fail(std::move(name).error());
  return Reference(std::move(*name));
}

Result<Reference> address(std::string_view text) {
  const std::unique_ptr<CURLU, void (*)(CURLU*)> parsed(curl_url(), curl_url_cleanup);
  if (!parsed || curl_url_set(parsed.get(), CURLUPART_URL, std::string(text).c_str(), 0) != CURLUE_OK) {
    return fail("'{}' is no URL that can be read; expected https://HOST/PATH/NAME.gguf", text);
  }
  std::string host = in_small_letters(address_part(parsed.get(), CURLUPART_HOST));
  if (host.starts_with("www.")) host.erase(0, 4);
  std::string path = address_part(parsed.get(), CURLUPART_PATH);
  while (path.starts_with('/')) path.erase(0, 1);
  if (host == "huggingface.co" || host == "hf.co") return as_reference(store::parse_hugging_face(text, path));
  // A mirror's addresses of files.
  if (const std::string endpoint = hugging_face_endpoint() + "/"; text.starts_with(endpoint)) {
    std::string_view rest = text.substr(endpoint.size());
    rest = rest.substr(0, rest.find('?'));
    if (is_file_of_repository(rest)) return as_reference(store::parse_hugging_face(text, rest));
  }
  if (host == "ollama.com" || host == "registry.ollama.ai") {
    if (path.find('/') != std::string::npos) return as_reference(store::parse_ollama(text, path));
  }
  return Address{std::string(text)};
}

std::string base_address(const char* variable, std::string_view usual) {
  const char* given = std::getenv(variable);
  std::string base(given == nullptr || *given == '\0' ? usual : given);
  while (base.ends_with('/')) base.pop_back();
  return base;
}

bool is_url(std::string_view text) {
  const std::string start = in_small_letters(std::string(text.substr(0, 8)));
  return start.starts_with("http://") || start.starts_with("https://");
}

}  // namespace

std::string hugging_face_endpoint() { return base_address("HF_ENDPOINT", "https://huggingface.co"); }

std::string ollama_registry() { return base_address("OLLAMA_REGISTRY", "https://registry.ollama.ai"); }

Result<Reference> parse_reference(std::string_view text) {
  if (is_url(text)) return address(text);
  PLUMB_TRY(store::Reference name, store::parse_reference(text));
  return std::visit([](auto& form) { return Reference(std::move(form)); }, name);
}

bool is_reference(std::string_view text) {
  if (is_url(text) || store::begins_hugging_face(text)) return true;
  return text.find(':') != std::string_view::npos && store::parse_ollama(text, text).has_value();
}

std::string canonical(const Reference& reference) {
  if (const auto* name = std::get_if<HuggingFaceName>(&reference)) return store::canonical(*name);
  if (const auto* name = std::get_if<OllamaName>(&reference)) return store::canonical(*name);
  return "url:" + *sha256(std::as_bytes(std::span(std::get<Address>(reference).url)));
}

Result<store::KeptModel> find_kept(std::string_view text) {
  if (!is_url(text)) return store::find_kept(text);
  PLUMB_TRY(const Reference reference, parse_reference(text));
  const auto* name = std::get_if<HuggingFaceName>(&reference);
  auto kept = name != nullptr ? store::find_fetched(*name) : store::find_fetched(canonical(reference));
  if (!kept) return fail("no model has been fetched from {}", text);
  return std::move(*kept);
}

}  // namespace plumb::cli
