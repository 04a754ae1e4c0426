#include "cli/reference.h"

#include <curl/curl.h>
#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <memory>
#include <span>
#include <vector>

#include "cli/sha256.h"

namespace plumb::cli {

namespace {

char lower(char c) { return static_cast<char>(std::tolower(static_cast<unsigned char>(c))); }
char upper(char c) { return static_cast<char>(std::toupper(static_cast<unsigned char>(c))); }

std::string in_lower_case(std::string_view text) {
  std::string result(text);
  std::ranges::transform(result, result.begin(), lower);
  return result;
}

// A part of a name that becomes a part of an address: letters, digits, '.', '_', '-'.
bool is_part(std::string_view text) {
  return !text.empty() && text.size() <= 200 && text != "." && text != ".." && std::ranges::all_of(text, [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '_' || c == '-';
  });
}

std::vector<std::string> parts_of(std::string_view text) {
  std::vector<std::string> parts;
  for (;;) {
    const std::size_t slash = text.find('/');
    parts.emplace_back(text.substr(0, slash));
    if (slash == std::string_view::npos) return parts;
    text.remove_prefix(slash + 1);
  }
}

std::string joined(std::span<const std::string> parts) {
  std::string text;
  for (const std::string& part : parts) text += text.empty() ? part : "/" + part;
  return text;
}

// The tail behind the last ':' of the last part, which loses it.
std::string take_tag(std::vector<std::string>& parts) {
  std::string& last = parts.back();
  const std::size_t colon = last.rfind(':');
  if (colon == std::string::npos) return {};
  std::string tag = last.substr(colon + 1);
  last.resize(colon);
  return tag;
}

// OWNER/REPO[:QUANT], OWNER/REPO/FILE.gguf, and OWNER/REPO/(blob|resolve|raw|tree)/REVISION[/FILE.gguf] as addresses have
// it.
Result<Reference> hugging_face(std::string_view whole, std::string_view path) {
  const auto wrong = [&] {
    return fail(
        "'{}' names no model at Hugging Face; expected hf:OWNER/REPO, hf:OWNER/REPO:QUANT or hf:OWNER/REPO/FILE.gguf",
        whole);
  };
  while (path.ends_with('/')) path.remove_suffix(1);
  std::vector<std::string> parts = parts_of(path);
  HuggingFaceName name;
  const bool tagged = parts.back().find(':') != std::string::npos;
  name.quantization = take_tag(parts);
  if (tagged && !is_part(name.quantization)) return wrong();
  if (parts.size() < 2 || !std::ranges::all_of(std::span(parts).first(2), is_part)) return wrong();
  name.repository = parts[0] + "/" + parts[1];
  auto rest = std::span<const std::string>(parts).subspan(2);
  if (rest.size() >= 2 && (rest[0] == "blob" || rest[0] == "resolve" || rest[0] == "raw" || rest[0] == "tree")) {
    name.revision = rest[1];
    if (!is_part(name.revision)) return wrong();
    rest = rest.subspan(2);
  }
  name.file = joined(rest);
  const bool plain = std::ranges::all_of(rest, [](const std::string& part) {
    return !part.empty() && part != "." && part != ".." && part.find_first_of("\\?#") == std::string::npos;
  });
  if (!plain || (!name.file.empty() && (tagged || !name.file.ends_with(".gguf")))) return wrong();
  return name;
}

Result<Reference> ollama(std::string_view whole, std::string_view path) {
  const auto wrong = [&] { return fail("'{}' is no name of a model; expected NAME, NAME:TAG or OWNER/NAME:TAG", whole); };
  std::vector<std::string> parts = parts_of(path);
  OllamaName name;
  const bool tagged = parts.back().find(':') != std::string::npos;
  if (tagged) name.tag = take_tag(parts);
  if (parts.size() == 3) {
    name.host = parts[0];
    parts.erase(parts.begin());
    const std::size_t colon = name.host.find(':');
    const std::string port = colon == std::string::npos ? "1" : name.host.substr(colon + 1);
    if (!is_part(name.host.substr(0, colon)) || port.empty() || port.find_first_not_of("0123456789") != std::string::npos) {
      return wrong();
    }
    if (name.host == "registry.ollama.ai" || name.host == "ollama.com") name.host.clear();
  }
  if (parts.size() == 2) name.space = parts[0];
  name.model = parts.back();
  const bool parses = parts.size() <= 2 && is_part(name.space) && is_part(name.model) && is_part(name.tag);
  if (!parses || name.model.ends_with(".gguf")) return wrong();
  return name;
}

// A part of an address, without its escapes; empty where there is none.
std::string address_part(CURLU* parsed, CURLUPart part) {
  char* text = nullptr;
  if (curl_url_get(parsed, part, &text, CURLU_URLDECODE) != CURLUE_OK) return {};
  std::string result(text);
  curl_free(text);
  return result;
}

Result<Reference> address(std::string_view text) {
  const std::unique_ptr<CURLU, void (*)(CURLU*)> parsed(curl_url(), curl_url_cleanup);
  if (!parsed || curl_url_set(parsed.get(), CURLUPART_URL, std::string(text).c_str(), 0) != CURLUE_OK) {
    return fail("'{}' is no URL that can be read; expected https://HOST/PATH/NAME.gguf", text);
  }
  std::string host = in_lower_case(address_part(parsed.get(), CURLUPART_HOST));
  if (host.starts_with("www.")) host.erase(0, 4);
  std::string path = address_part(parsed.get(), CURLUPART_PATH);
  while (path.starts_with('/')) path.erase(0, 1);
  if (host == "huggingface.co" || host == "hf.co") return hugging_face(text, path);
  // A mirror's addresses of files.
  if (const std::string endpoint = hugging_face_endpoint() + "/"; text.starts_with(endpoint)) {
    const std::string_view rest = text.substr(endpoint.size());
    const auto parts = parts_of(rest.substr(0, rest.find('?')));
    if (parts.size() > 4 && (parts[2] == "resolve" || parts[2] == "blob" || parts[2] == "raw")) {
      return hugging_face(text, joined(parts));
    }
  }
  if (host == "ollama.com" || host == "registry.ollama.ai") {
    if (path.starts_with("library/") || path.find('/') != std::string::npos) return ollama(text, path);
  }
  return Address{std::string(text)};
}

std::string base_address(const char* variable, std::string_view usual) {
  const char* given = std::getenv(variable);
  std::string base(given == nullptr || *given == '\0' ? usual : given);
  while (base.ends_with('/')) base.pop_back();
  return base;
}

constexpr std::string_view hugging_face_prefixes[] = {"hf://", "hf:", "hf.co/", "huggingface.co/"};

bool is_url(std::string_view text) {
  const std::string start = in_lower_case(text.substr(0, 8));
  return start.starts_with("http://") || start.starts_with("https://");
}

}  // namespace

std::string hugging_face_endpoint() { return base_address("HF_ENDPOINT", "https://huggingface.co"); }

std::string ollama_registry() { return base_address("OLLAMA_REGISTRY", "https://registry.ollama.ai"); }

Result<Reference> parse_reference(std::string_view text) {
  if (is_url(text)) return address(text);
  for (const std::string_view prefix : hugging_face_prefixes) {
    if (text.starts_with(prefix)) return hugging_face(text, text.substr(prefix.size()));
  }
  return ollama(text, text);
}

bool is_reference(std::string_view text) {
  if (is_url(text)) return true;
  for (const std::string_view prefix : hugging_face_prefixes) {
    if (text.starts_with(prefix)) return true;
  }
  return text.find(':') != std::string_view::npos && ollama(text, text).has_value();
}

std::string canonical(const Reference& reference) {
  if (const auto* name = std::get_if<HuggingFaceName>(&reference)) {
    std::string text = "hf:" + name->repository;
    if (name->revision != "main") text += "@" + name->revision;
    if (!name->file.empty()) return text + "/" + name->file;
    if (name->quantization.empty()) return text;
    std::string quantization = name->quantization;
    std::ranges::transform(quantization, quantization.begin(), upper);
    return text + ":" + quantization;
  }
  if (const auto* name = std::get_if<OllamaName>(&reference)) {
    return fmt::format("ollama:{}{}{}/{}:{}", name->host, name->host.empty() ? "" : "/", name->space, name->model,
                       name->tag);
  }
  return "url:" + *sha256(std::as_bytes(std::span(std::get<Address>(reference).url)));
}

bool has_quantization(std::string_view file, std::string_view quantization) {
  const std::string path = in_lower_case(file);
  const std::string sought = in_lower_case(quantization);
  const std::string name = path.substr(path.rfind('/') + 1);
  if (name == sought || name == sought + ".gguf") return true;
  // Repositories with many files have a folder for each quantization.
  if (("/" + path).find("/" + sought + "/") != std::string::npos) return true;
  for (std::size_t at = name.find(sought); at != std::string::npos; at = name.find(sought, at + 1)) {
    const std::size_t end = at + sought.size();
    const bool begins = at > 0 && std::isalnum(static_cast<unsigned char>(name[at - 1])) == 0;
    const bool ends = end < name.size() && (name[end] == '.' || name[end] == '-');
    if (begins && ends) return true;
  }
  return false;
}

}  // namespace plumb::cli
