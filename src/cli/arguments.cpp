#include <fmt/format.h>

#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>

#include "base/printable.h"
#include "cli/command.h"
#include "cli/sha256.h"
#include "engine/canary.h"
#include "gguf/mapping.h"

namespace plumb::cli {

namespace {

constexpr std::uint64_t max_text_bytes = std::uint64_t{1} << 30;
constexpr std::uint64_t max_template_bytes = std::uint64_t{4} << 20;

std::atomic<bool> interrupt_flag{false};
static_assert(std::atomic<bool>::is_always_lock_free);

Result<std::string> read_stream(std::FILE* stream, const std::string& label, std::uint64_t max_bytes) {
  std::string content;
  char buffer[1 << 16];
  while (const std::size_t n = std::fread(buffer, 1, sizeof(buffer), stream)) {
    content.append(buffer, n);
    if (content.size() > max_bytes) return fail("{}: more than {} bytes; give a smaller file", label, max_bytes);
  }
  if (std::ferror(stream) != 0) return fail("{}: cannot be read: {}", label, std::strerror(errno));
  return content;
}

Result<std::pair<text::TokenId, float>> parse_bias(const std::string& text) {
  const std::size_t equals = text.find('=');
  text::TokenId token = 0;
  float bias = 0;
  const char* end = text.data() + text.size();
  if (equals != std::string::npos) {
    const char* middle = text.data() + equals;
    const auto id = std::from_chars(text.data(), middle, token);
    const auto value = std::from_chars(middle + 1, end, bias);
    if (id.ec == std::errc() && id.ptr == middle && value.ec == std::errc() && value.ptr == end)
      return std::pair{token, bias};
  }
  return fail("--logit-bias '{}': expected TOKEN=BIAS, such as 13=-2.5 or 13=-inf", text);
}

}  // namespace

void TextArguments::add(CLI::App& app) {
  text_option = app.add_option("-p,--prompt", text, "The text");
  file_option = app.add_option("-f,--file", file, "Read the text from a file ('-': standard input), byte for byte");
  text_option->excludes(file_option);
}

Result<std::string> TextArguments::read() const {
  if (text_option->count() > 0) return text;
  if (file_option->count() > 0) return read_file(file, max_text_bytes);
  return fail("there is no text: give it with -p TEXT or -f FILE");
}

void add_model(CLI::App& app, std::string& model, bool& yes, const std::string& positional, const std::string& help) {
  app.add_option(positional + ",-m,--model", model, help)->required();
  app.add_flag("-y,--yes", yes, "Fetch the model where it is not here, without a question");
}

void EngineArguments::add(CLI::App& app) {
  add_model(app, model, yes);
  backend_option = app.add_option("--backend", settings.backend, "auto, reference, cpu, cuda, metal or checker");
  app.add_option("--gpu-layers,--n-gpu-layers", gpu_layers,
                 "-ngl: 0 is --backend cpu; a number, all or auto is a GPU where there is one, which then holds all layers")
      ->check(CLI::IsMember({"all", "auto"}) | CLI::Range(-1, 1 << 20));
  app.add_option("-t,--threads", settings.n_threads, "CPU threads (0: all cores this process may use)")
      ->check(CLI::Range(0u, 1024u));
  app.add_option("-c,--ctx,--ctx-size", settings.context, "Positions of the KV cache (0: the model's own, at most 4096)")
      ->check(CLI::Range(0u, 16u << 20));
  app.add_option("--kv-type", kv_type, "Type of the KV cache")->check(CLI::IsMember({"f16", "f32"}));
  app.add_option("--cache-type-k", key_type, "-ctk: of its keys, which must be that of its values")
      ->check(CLI::IsMember({"f16", "f32"}));
  app.add_option("--cache-type-v", value_type, "-ctv: of its values")->check(CLI::IsMember({"f16", "f32"}));
  app.add_option(
         "--activations", activations,
         "What the cpu backend rounds the inputs of quantized products to: int16, or int8 as llama.cpp does (faster)")
      ->check(CLI::IsMember({"int16", "int8"}));
  app.add_flag("--shared-kernels", settings.shared_kernels,
               "On a GPU, run only the kernels that all GPUs share, none tuned for this one: slower, and a check of those");
}

void TemplateArguments::add(CLI::App& app) {
  add_template(app);
  app.add_flag("--no-special", no_special, "Special tokens in the text, such as <|im_end|>, are read as plain text");
}

void TemplateArguments::add_template(CLI::App& app) {
  app.add_option("--template,--chat-template-file", file, "A file with a chat template (Jinja), in place of the model's");
  app.add_option("--chat-template-kwargs", variables,
                 "Variables for the chat template: a JSON object, such as {\"enable_thinking\":false}");
  app.add_option("--reasoning", reasoning,
                 "Whether the model shall think before it answers (the template's enable_thinking and thinking)")
      ->check(CLI::IsMember({"on", "off", "auto"}));
}

void set_thinking(Json& variables, bool on) {
  // Qwen's, GLM's and SmolLM's name for it; DeepSeek's and Granite's.
  for (const char* name : {"enable_thinking", "thinking"}) variables[name] = on;
}

bool can_switch_thinking(const engine::Engine& engine) {
  return engine.chat_template_text().find("thinking") != std::string_view::npos;
}

Result<engine::ChatSettings> TemplateArguments::read() const {
  engine::ChatSettings settings;
  settings.plain_text = no_special;
  settings.variables = Json::object();
  if (reasoning != "auto") set_thinking(settings.variables, reasoning == "on");
  if (!variables.empty()) {
    const auto given = engine::parse_template_variables(variables);
    if (!given) return fail("--chat-template-kwargs {}", given.error().message);
    settings.variables.update(*given);
  }
  if (!file.empty()) {
    PLUMB_TRY(settings.chat_template, read_file(file, max_template_bytes));
    if (const auto parsed = text::ChatTemplate::parse(*settings.chat_template); !parsed) {
      return fail("{}: {}", file, parsed.error().message);
    }
  }
  return settings;
}

Result<std::unique_ptr<engine::Engine>> EngineArguments::load() const {
  PLUMB_TRY(engine::ChatSettings conversation, chat.read());
  PLUMB_TRY(gguf::File file, open_model(model, yes));
  engine::EngineSettings chosen = settings;
  if (gpu_layers == "0" && backend_option->count() == 0) chosen.backend = "cpu";
  const std::string& keys = key_type.empty() ? kv_type : key_type;
  const std::string& values = value_type.empty() ? kv_type : value_type;
  if (keys != values) {
    return fail(
        "the KV cache would have keys in {} and values in {}, and Plumb keeps both in one type; --kv-type sets it for both",
        keys, values);
  }
  PLUMB_TRY(chosen.kv_type, backends::kv_type(keys));
  PLUMB_TRY(chosen.activations, backends::activations(activations));
  chosen.chat = std::move(conversation);
  PLUMB_TRY(auto engine, engine::Engine::load(std::move(file), chosen));
  if (chat.reasoning != "auto" && !can_switch_thinking(*engine)) {
    fmt::print(stderr, "{}: the chat template has no switch for it, so --reasoning changes nothing\n", printable(model));
  }
  for (const std::string& warning : engine->warnings()) warn(warning);
  return engine;
}

void PromptArguments::add(CLI::App& app) {
  text.add(app);
  app.add_flag("--raw", raw, "No chat template: the text goes to the model as it is");
  app.add_flag("--no-conversation", raw, "As --raw");
  app.add_option("--system,--system-prompt", system, "System message");
  app.add_option("--tokens", tokens, "Token ids in place of a text, such as 1,2,3")
      ->delimiter(',')
      ->check([](const std::string& id) { return id.empty() ? "a token id is missing" : ""; })
      ->excludes(text.text_option)
      ->excludes(text.file_option);
}

Result<std::string> sha256_of(const gguf::File& file) {
  if (file.label() == "canary") return *sha256(engine::canary_bytes());
  PLUMB_TRY(const gguf::Mapping mapping, gguf::Mapping::open(file.label()));
  if (mapping.bytes().size() != file.size_bytes()) return std::string();
  return *sha256(mapping.bytes());
}

trace::Info trace_info(const engine::Engine& engine, const std::string& prompt) {
  return {.engine = fmt::format("plumb {} ({})", PLUMB_VERSION, engine.backend().name()),
          .model = std::filesystem::path(engine.model().file().label()).filename().string(),
          .prompt = prompt};
}

Result<std::vector<text::TokenId>> PromptArguments::read(const engine::Engine& engine, const std::string& model,
                                                         std::string* asked) const {
  std::optional<std::string> given;
  if (tokens.empty()) {
    PLUMB_TRY(given, text.read());
  }
  if (asked != nullptr && given) *asked = *given;
  return encode(engine, model, given);
}

Result<std::vector<text::TokenId>> PromptArguments::encode(const engine::Engine& engine, const std::string& model,
                                                           const std::optional<std::string>& given) const {
  if (!tokens.empty()) return tokens;
  if (!given) return fail("there is no text: give it with -p TEXT or -f FILE");
  if (raw || !engine.has_chat_template()) {
    if (!raw && !system.empty()) {
      return fail("{}: the file has no chat template, so there is no place for --system; put it in the prompt", model);
    }
    if (!raw) {
      fmt::print(stderr, "{}: no chat template in the file; the text goes to the model as it is\n", printable(model));
    }
    PLUMB_TRY(auto encoded, engine.tokenizer().encode(*given, {.parse_special = !engine.settings().chat.plain_text}));
    const std::optional<text::TokenId> bos = engine.tokenizer().special().bos;
    if (bos && encoded.size() > 1 && encoded[0] == *bos && encoded[1] == *bos) {
      warn(
          fmt::format("the text begins with {}, which the model's tokenizer adds as well; the prompt begins with two of it",
                      engine.tokenizer().piece(*bos)));
    }
    return encoded;
  }
  return engine.chat_tokens(engine::conversation(system, *given));
}

void SamplerArguments::add(CLI::App& to) {
  app = &to;
  to.add_option("--temp,--temperature", settings.temperature, "Temperature; 0 takes the most likely token");
  to.add_option("--top-k", settings.top_k, "Keep the k most likely tokens (0: off)");
  to.add_option("--top-p", settings.top_p, "Keep the most likely tokens that make up this probability (1: off)");
  to.add_option("--min-p", settings.min_p, "Keep tokens at least this likely beside the most likely one (0: off)");
  to.add_option("--repeat-penalty", settings.repeat_penalty, "Divide the logits of recent tokens (1: off)");
  to.add_option("--repeat-last-n", settings.repeat_last_n, "Tokens the penalties look back on (0: none, -1: all)");
  to.add_option("--presence-penalty", settings.presence_penalty, "Subtract this for tokens that occur (0: off)");
  to.add_option("--frequency-penalty", settings.frequency_penalty, "Subtract this for each occurrence (0: off)");
  to.add_option("-l,--logit-bias", bias, "TOKEN=BIAS, added to the token's logit; may be repeated");
  seed.add(to, "Seed of the random choice; the same seed gives the same answer (-1: another one each time)");
}

Result<engine::SamplerSettings> SamplerArguments::read() const {
  engine::SamplerSettings read = settings;
  for (const std::string& text : bias) {
    PLUMB_TRY(const auto entry, parse_bias(text));
    read.logit_bias.push_back(entry);
  }
  PLUMB_TRY(const std::uint64_t number, seed.read());
  read.seed = number;
  PLUMB_CHECK(read.validate());
  return read;
}

Result<void> SamplerArguments::take_recommended(const gguf::File& file, engine::SamplerSettings& read) const {
  PLUMB_TRY(const auto recommended, engine::recommended_sampling(file));
  if (const auto unknown = engine::unknown_sampling(file)) warn(*unknown);
  for (const auto& setting : recommended) {
    if (app->get_option(fmt::format("--{}", setting.option))->count() > 0) continue;
    setting.apply(read, setting.value);
    if (const auto valid = read.validate(); !valid) {
      return fail("{}: {}: {}; --{} sets another", file.label(), setting.key, valid.error().message, setting.option);
    }
  }
  return {};
}

Result<std::string> recommended_text(const gguf::File& file) {
  PLUMB_TRY(const auto recommended, engine::recommended_sampling(file));
  std::string text;
  for (const auto& setting : recommended) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", setting.option, setting.value);
  }
  return text.empty() ? text : text + " (general.sampling)";
}

void SeedArgument::add(CLI::App& app, const std::string& help) { app.add_option("-s,--seed", text, help); }

Result<std::uint64_t> SeedArgument::read() const {
  if (text == "-1") return engine::random_seed();
  std::uint64_t seed = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), seed);
  if (error == std::errc() && end == text.data() + text.size()) return seed;
  return fail("--seed '{}': expected a number from 0 to {}, or -1", text, std::numeric_limits<std::uint64_t>::max());
}

Result<std::uint32_t> token_limit(std::int64_t given) {
  if (given < -1 || given > std::numeric_limits<std::uint32_t>::max()) {
    return fail("--max-tokens {}: expected a number from 0 to {}, or -1", given, std::numeric_limits<std::uint32_t>::max());
  }
  return given == -1 ? 0 : static_cast<std::uint32_t>(given);
}

Result<std::optional<std::string>> piped_text() {
  struct stat status {};
  if (fstat(STDIN_FILENO, &status) != 0) return std::nullopt;
  const bool pipe = S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode);
  if (!pipe && !S_ISREG(status.st_mode)) return std::nullopt;
  pollfd input{.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
  if (pipe && poll(&input, 1, 2000) == 0)
    fmt::print(stderr, "plumb: waiting for standard input; '</dev/null' leaves it out\n");
  PLUMB_TRY(std::string text, read_stream(stdin, "standard input", max_text_bytes));
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
  if (text.empty()) return std::nullopt;
  return text;
}

void warn(std::string_view warning) { fmt::print(stderr, "plumb: warning: {}\n", printable(warning)); }

Result<int> print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    return fail("standard output cannot be written: {}", std::strerror(errno));
  }
  return 0;
}

Result<int> print_foreign(std::string_view text) {
  return ::isatty(STDOUT_FILENO) == 1 ? print(printable(text)) : print(text);
}

Result<int> print_json(const Json& document) {
  return print(document.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

Result<std::string> read_file(const std::string& path, std::uint64_t max_bytes) {
  if (path == "-") return read_stream(stdin, "standard input", max_bytes);
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> stream(std::fopen(path.c_str(), "rb"), std::fclose);
  if (!stream) return fail("{}: cannot be opened: {}", path, std::strerror(errno));
  return read_stream(stream.get(), path, max_bytes);
}

void catch_interrupts() {
  struct sigaction before {};
  if (sigaction(SIGINT, nullptr, &before) == 0 && before.sa_handler == SIG_IGN) return;
  struct sigaction action {};
  action.sa_handler = [](int) { interrupt_flag = true; };
  action.sa_flags = SA_RESTART;  // what is being printed is printed whole
  sigaction(SIGINT, &action, nullptr);
}

bool interrupted() { return interrupt_flag; }

void clear_interrupt() { interrupt_flag = false; }

std::string format_bytes(std::uint64_t bytes) {
  const auto value = static_cast<double>(bytes);
  if (value >= 1e9) return fmt::format("{:.2f} GB", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.1f} MB", value / 1e6);
  if (value >= 1e3) return fmt::format("{:.1f} kB", value / 1e3);
  return fmt::format("{} B", bytes);
}

}  // namespace plumb::cli
