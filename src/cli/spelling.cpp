#include "cli/spelling.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <optional>
#include <utility>

namespace plumb::cli {
namespace {

// llama.cpp's names of several letters behind one dash (common/arg.cpp there), and the long names that mean the same.
constexpr std::array<std::pair<std::string_view, std::string_view>, 19> short_spellings{{
    {"-cnv", "--conversation"},       {"-co", "--color"},        {"-ctk", "--cache-type-k"}, {"-ctv", "--cache-type-v"},
    {"-fa", "--flash-attn"},          {"-hf", "--hf-repo"},      {"-hff", "--hf-file"},      {"-hfr", "--hf-repo"},
    {"-md", "--model-draft"},         {"-mm", "--mmproj"},       {"-mu", "--model-url"},     {"-ngl", "--gpu-layers"},
    {"-no-cnv", "--no-conversation"}, {"-np", "--parallel"},     {"-sm", "--split-mode"},    {"-sys", "--system"},
    {"-tb", "--threads-batch"},       {"-ts", "--tensor-split"}, {"-ub", "--ubatch-size"},
}};

// Options of llama.cpp and Ollama that name something which Plumb does not have.
constexpr std::array<std::pair<std::string_view, std::string_view>, 22> not_yet{{
    {"--control-vector", "control vectors"},
    {"--draft-max", "speculative decoding"},
    {"--dry-multiplier", "the DRY sampler"},
    {"--dynatemp-range", "dynamic temperature"},
    {"--format", "answers held to a format"},
    {"--grammar", "answers held to a grammar"},
    {"--grammar-file", "answers held to a grammar"},
    {"--image", "pictures"},
    {"--json-schema", "answers held to a schema"},
    {"--lora", "adapters"},
    {"--lora-scaled", "adapters"},
    {"--mirostat", "the Mirostat sampler"},
    {"--mmproj", "pictures"},
    {"--model-draft", "speculative decoding"},
    {"--override-kv", "metadata given on the command line"},
    {"--rope-freq-base", "rotation other than the file's"},
    {"--rope-freq-scale", "rotation other than the file's"},
    {"--rope-scaling", "rotation other than the file's"},
    {"--split-mode", "several GPUs"},
    {"--tensor-split", "several GPUs"},
    {"--typical", "the locally typical sampler"},
    {"--xtc-probability", "the XTC sampler"},
}};

// Options of llama.cpp and Ollama that change nothing here. value: whether one follows; '?': it may be left out.
struct Accepted {
  const char* names;
  char value;
  const char* why;
};
constexpr std::array<Accepted, 20> accepted{{
    {"-b,--batch-size", '1', "Plumb chooses how many tokens run together"},
    {"--ubatch-size", '1', "As --batch-size"},
    {"--threads-batch", '1', "--threads holds for prompts as well"},
    {"--parallel", '1', "One answer is made at a time"},
    {"--keep", '1', "A chat whose context is full keeps its system message and the latest turns"},
    {"--numa", '1', "Threads stay where the system puts them"},
    {"--keepalive", '1', "No model stays loaded"},
    {"--flash-attn", '?', "Attention always runs without a table of scores"},
    {"--color", '?', "The terminal decides; NO_COLOR turns colours off"},
    {"--no-mmap", '0', "Files are mapped, and read on first use"},
    {"--mmap", '0', "Files are mapped"},
    {"--mlock", '0', "The system decides what stays in memory"},
    {"--no-warmup", '0', "There is no warm-up"},
    {"--jinja", '0', "Templates are always run as they are"},
    {"--no-perf", '0', "Statistics go to standard error"},
    {"--simple-io", '0', "The terminal decides"},
    {"--log-disable", '0', "There is no log"},
    {"--no-display-prompt", '0', "The prompt is not repeated"},
    {"-v,--verbose", '0', "The statistics are always printed"},
    {"--nowordwrap", '0', "Lines are not wrapped"},
}};
constexpr std::array<std::string_view, 5> switch_values{"on", "off", "auto", "0", "1"};

// Edits between two words, neighbours exchanged counting as one (optimal string alignment).
std::size_t edits(std::string_view a, std::string_view b) {
  std::vector<std::vector<std::size_t>> costs(a.size() + 1, std::vector<std::size_t>(b.size() + 1));
  for (std::size_t i = 0; i <= a.size(); ++i) {
    for (std::size_t j = 0; j <= b.size(); ++j) {
      if (i == 0 || j == 0) {
        costs[i][j] = i + j;
        continue;
      }
      costs[i][j] =
          std::min({costs[i - 1][j] + 1, costs[i][j - 1] + 1, costs[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1)});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        costs[i][j] = std::min(costs[i][j], costs[i - 2][j - 2] + 1);
      }
    }
  }
  return costs[a.size()][b.size()];
}

bool is_number(std::string_view word) {
  const std::string_view digits = word.substr(word.starts_with('-') ? 1 : 0);
  return !digits.empty() && (std::isdigit(static_cast<unsigned char>(digits[0])) != 0 || digits[0] == '.');
}

std::string_view bare(std::string_view name) { return name.substr(std::min(name.find_first_not_of('-'), name.size())); }

std::vector<std::string> option_names(const CLI::App& command) {
  std::vector<std::string> names;
  for (const CLI::Option* option : command.get_options()) {
    for (const std::string& name : option->get_lnames()) names.push_back("--" + name);
    for (const std::string& name : option->get_snames()) names.push_back("-" + name);
  }
  if (command.get_option_no_throw("--yes") != nullptr) names.insert(names.end(), {"-hf", "--hf-repo", "--hf-file"});
  for (const auto& [spelling, name] : short_spellings) {
    if (command.get_option_no_throw(std::string(name)) != nullptr) names.emplace_back(spelling);
  }
  return names;
}

std::string long_name(std::string_view name) {
  const auto* const found = std::ranges::find(short_spellings, name, [](const auto& entry) { return entry.first; });
  return std::string(found == short_spellings.end() ? name : found->second);
}

Error unknown(const CLI::App& command, std::string_view name) {
  const auto* const missing = std::ranges::find(not_yet, long_name(name), [](const auto& entry) { return entry.first; });
  if (missing != not_yet.end())
    return Error{fmt::format("{}: not yet; Plumb does not have {} so far", name, missing->second)};
  return Error{fmt::format("there is no option {}{}", name, suggestion(name, option_names(command)))};
}

}  // namespace

std::string suggestion(std::string_view word, std::span<const std::string> known) {
  const std::string_view given = bare(word);
  if (given.empty()) return {};
  std::vector<std::pair<std::size_t, std::string>> near;
  for (const std::string& name : known) {
    const std::string_view other = bare(name);
    const std::size_t n = given.size() > 1 && other.starts_with(given) ? 0 : edits(given.substr(0, 64), other);
    if (n <= (given.size() + 2) / 3 && n < other.size()) near.emplace_back(n, name);
  }
  if (near.empty()) return {};
  std::ranges::stable_sort(near, {}, [](const auto& entry) { return entry.first; });
  const bool two = near.size() > 1 && near[1].first == near[0].first;
  return two ? fmt::format("; did you mean {} or {}?", near[0].second, near[1].second)
             : fmt::format("; did you mean {}?", near[0].second);
}

Result<std::vector<std::string>> arrange(const CLI::App& command, std::span<const std::string> words) {
  std::vector<std::string> arranged;
  std::string repository, file;  // of Hugging Face
  const bool fetches = command.get_option_no_throw("--yes") != nullptr;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string& word = words[i];
    if (word == "--") {
      arranged.insert(arranged.end(), words.begin() + static_cast<std::ptrdiff_t>(i), words.end());
      break;
    }
    if (!word.starts_with('-') || word == "-" || is_number(word)) {
      arranged.push_back(word);
      continue;
    }
    const std::size_t equals = word.find('=');
    const std::string given = word.substr(0, equals);
    std::string name = long_name(given);
    std::optional<std::string> value;
    if (equals != std::string::npos) value = word.substr(equals + 1);
    if (!value && name.size() > 2 && name[1] != '-' && is_number(name.substr(2))) {
      value = name.substr(2);
      name.resize(2);
    }
    if (fetches && (name == "--hf-repo" || name == "--hf-file" || name == "--model-url")) {
      if (!value && i + 1 < words.size()) value = words[++i];
      if (!value || value->empty()) return fail("{} needs a value", given);
      if (name == "--model-url") {
        arranged.insert(arranged.end(), {"--model=" + *value, "--yes"});
      } else {
        (name == "--hf-repo" ? repository : file) = *value;
      }
      continue;
    }
    const bool cluster = name.size() > 2 && name[1] != '-';
    const CLI::Option* const option = cluster ? nullptr : command.get_option_no_throw(name);
    if (option == nullptr) return tl::unexpected(unknown(command, given));
    if (option->get_items_expected_max() == 0) {
      arranged.push_back(value ? name + "=" + *value : name);
      continue;
    }
    // A word that is another option is no value; CLI11 then says what is missing.
    const auto is_option = [&](const std::string& text) {
      return text.starts_with('-') && command.get_option_no_throw(long_name(text)) != nullptr;
    };
    if (!value && i + 1 < words.size() && !is_option(words[i + 1])) {
      // An option whose value may be left out takes the next word only where that is such a value.
      const bool optional = option->get_items_expected_min() == 0;
      if (!optional || std::ranges::find(switch_values, words[i + 1]) != switch_values.end()) value = words[++i];
    }
    // A list of numbers may be written with spaces.
    while (value && option->get_delimiter() != '\0' && i + 1 < words.size() && is_number(words[i + 1])) {
      *value += option->get_delimiter() + words[++i];
    }
    if (!value && option->get_items_expected_min() == 0) value = "on";
    const bool has_long = !option->get_lnames().empty();
    const std::string joined = has_long ? "--" + option->get_lnames().front() : name;
    if (!value) {
      arranged.push_back(joined);
    } else if (value->empty()) {
      arranged.insert(arranged.end(), {joined, ""});  // CLI11 takes "--name=" for a name whose value follows
    } else {
      arranged.push_back(has_long ? joined + "=" + *value : joined + *value);
    }
  }
  if (repository.empty() && !file.empty()) return fail("--hf-file goes with -hf OWNER/REPO");
  if (!repository.empty()) {
    const std::string name = file.empty() ? repository : repository.substr(0, repository.find(':')) + "/" + file;
    arranged.insert(arranged.end(), {"--model=hf:" + name, "--yes"});
  }
  // The model first: behind it, words without a dash are the prompt.
  std::stable_partition(arranged.begin(), arranged.end(),
                        [](const std::string& word) { return word.starts_with("--model="); });
  return arranged;
}

void add_accepted(CLI::App& command) {
  for (const auto& [names, value, why] : accepted) {
    const std::string_view all = names;
    if (command.get_option_no_throw(std::string(all.substr(all.rfind(',') + 1))) != nullptr) continue;
    if (value == '0') {
      command
          .add_flag_callback(
              names, [] {}, why)
          ->group("Accepted, without effect");
    } else {
      command.add_option(names, why)->expected(value == '?' ? 0 : 1, 1)->group("Accepted, without effect");
    }
  }
}

}  // namespace plumb::cli
