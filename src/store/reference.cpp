#include "store/reference.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <span>
#include <utility>
#include <vector>

#include "base/letter_case.h"

namespace plumb::store {

namespace {

constexpr std::string_view hugging_face_prefixes[] = {"hf://", "hf:", "hf.co/", "huggingface.co/"};

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

}  // namespace

Result<HuggingFaceName> parse_hugging_face(std::string_view whole, std::string_view path) {
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

Result<OllamaName> parse_ollama(std::string_view whole, std::string_view path) {
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

Result<Reference> parse_reference(std::string_view text) {
  for (const std::string_view prefix : hugging_face_prefixes) {
    if (text.starts_with(prefix)) return parse_hugging_face(text, text.substr(prefix.size()));
  }
  return parse_ollama(text, text);
}

bool begins_hugging_face(std::string_view text) {
  return std::ranges::any_of(hugging_face_prefixes, [&](std::string_view prefix) { return text.starts_with(prefix); });
}

std::string canonical(const HuggingFaceName& name) {
  std::string text = "hf:" + name.repository;
  if (name.revision != "main") text += "@" + name.revision;
  if (!name.file.empty()) return text + "/" + name.file;
  return name.quantization.empty() ? text : text + ":" + in_capital_letters(name.quantization);
}

std::string canonical(const OllamaName& name) {
  return fmt::format("ollama:{}{}{}/{}:{}", name.host, name.host.empty() ? "" : "/", name.space, name.model, name.tag);
}

bool has_quantization(std::string_view file, std::string_view quantization) {
  const std::string path = in_small_letters(std::string(file));
  const std::string sought = in_small_letters(std::string(quantization));
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

}  // namespace plumb::store
