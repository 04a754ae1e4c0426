#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <optional>
#include <span>
#include <tuple>
#include <type_traits>

#include "base/letter_case.h"
#include "base/new_file.h"
#include "base/printable.h"
#include "base/terminal.h"
#include "base/white_space.h"
#include "cli/command.h"
#include "cli/conversation.h"
#include "cli/keyboard.h"
#include "cli/line_editor.h"
#include "cli/spelling.h"
#include "cli/thinking.h"
#include "store/model_store.h"

namespace plumb::cli {

namespace {

constexpr std::string_view quote_marks = "\"\"\"";
constexpr std::uint64_t max_file_bytes = 16u << 20;
constexpr std::uint32_t n_alternatives = 5;  // of each token, for /tokens

// The first word of a text, and what follows the space behind it.
std::pair<std::string_view, std::string_view> first_word(std::string_view text) {
  const std::size_t end = std::min(text.find_first_of(white_space), text.size());
  return {text.substr(0, end), trimmed(text.substr(end))};
}

// The text inside """…""", without a line's end next to them; else the text.
std::string_view without_quotes(std::string_view text) {
  std::string_view inner = trimmed(text);
  if (!inner.starts_with(quote_marks)) return text;
  inner.remove_prefix(quote_marks.size());
  if (inner.ends_with(quote_marks)) inner.remove_suffix(quote_marks.size());
  if (inner.starts_with('\n')) inner.remove_prefix(1);
  if (inner.ends_with('\n')) inner.remove_suffix(1);
  return inner;
}

// As without_quotes(), and without "…".
std::string_view unquoted(std::string_view text) {
  const bool is_quoted = text.size() >= 2 && text.starts_with('"') && text.ends_with('"') && !text.starts_with(quote_marks);
  return is_quoted ? text.substr(1, text.size() - 2) : without_quotes(text);
}

// Whether a text has opened """ and not closed it.
bool is_open(std::string_view text) {
  const std::string_view inner = trimmed(text);
  if (inner.starts_with(quote_marks)) return inner.size() < 2 * quote_marks.size() || !inner.ends_with(quote_marks);
  if (!inner.starts_with('/')) return false;
  std::size_t n = 0;
  for (std::size_t at = inner.find(quote_marks); at != std::string_view::npos;
       at = inner.find(quote_marks, at + quote_marks.size()))
    ++n;
  return n % 2 == 1;
}

// What the program says beside the answers: on stderr, dim where that is possible.
template <class... Args>
void note(fmt::format_string<Args...> format, Args&&... args) {
  const bool dim = can_color(STDERR_FILENO);
  fmt::print(stderr, "{}{}{}\n", dim ? "\x1b[2m" : "", printable(fmt::format(format, std::forward<Args>(args)...)),
             dim ? "\x1b[22m" : "");
}

void complain(std::string_view message) { fmt::print(stderr, "plumb: {}\n", printable(message)); }

// Where lines come from: an editor on a terminal, else standard input.
class Input {
 public:
  explicit Input(std::function<std::optional<Completions>(std::string_view)> complete) : keyboard_(Keyboard::open()) {
    if (!keyboard_) return;
    std::string path;
    if (const auto models = store::models_folder()) path = (models->parent_path() / "chat_history").string();
    history_.emplace(path);
    editor_.emplace(*keyboard_, *history_);
    editor_->is_open = is_open;
    editor_->complete = std::move(complete);
  }

  enum class Kind : std::uint8_t { text, nothing, end };
  // The next text, which may have several lines. It is edited from `initial` on, if there is an editor.
  std::pair<Kind, std::string> read(const std::string& initial) {
    if (!editor_) return read_lines();
    keyboard_->read_keys(true);
    // From here on Ctrl-C is a key. One that came before is for the text that would be read now.
    auto [end, text] =
        interrupted() ? std::pair(LineEditor::End::interrupted, std::string()) : editor_->read("> ", initial);
    keyboard_->read_keys(false);
    if (end == LineEditor::End::closed) return {Kind::end, {}};
    if (end == LineEditor::End::entered) return {Kind::text, std::move(text)};
    if (text.empty()) note("(Ctrl-D or /bye ends)");
    return {Kind::nothing, {}};
  }

  [[nodiscard]] bool edits() const { return editor_.has_value(); }
  void keep_history(bool on) {
    if (history_) history_->enable(on);
  }

 private:
  static std::pair<Kind, std::string> read_lines() {
    const bool asks = isatty(STDIN_FILENO) == 1;
    std::string text;
    std::string line;
    for (;;) {
      if (asks) fmt::print(stderr, "> ");
      if (!std::getline(std::cin, line)) return {text.empty() ? Kind::end : Kind::text, text};
      if (line.ends_with('\r')) line.pop_back();
      text += line;
      if (text.ends_with('\\') && !trimmed(text).starts_with(quote_marks)) {
        text.pop_back();
      } else if (!is_open(text)) {
        return {Kind::text, text};
      }
      text += '\n';
    }
  }

  std::unique_ptr<Keyboard> keyboard_;
  std::optional<History> history_;
  std::optional<LineEditor> editor_;
};

using Generate = engine::GenerateOptions;

// A number that /set changes.
struct Parameter {
  std::string_view names;  // "top-k": '_' and '-' are the same
  std::string (*shown)(const Generate& options);
  Result<void> (*set)(Generate& options, std::string_view value);
};

template <class T>
Result<T> number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc() && end == text.data() + text.size()) return value;
  return fail("'{}': expected a {}", text, std::is_floating_point_v<T> ? "number" : "whole number");
}

template <auto member>
constexpr Parameter sampler_parameter(std::string_view names) {
  return {names, [](const Generate& options) { return fmt::format("{}", options.sampler.*member); },
          [](Generate& options, std::string_view value) -> Result<void> {
            Generate changed = options;
            PLUMB_TRY(changed.sampler.*member, number<std::decay_t<decltype(options.sampler.*member)>>(value));
            PLUMB_CHECK(changed.sampler.validate());
            options = std::move(changed);
            return {};
          }};
}

constexpr std::array chat_parameters{
    sampler_parameter<&engine::SamplerSettings::temperature>("temperature temp"),
    sampler_parameter<&engine::SamplerSettings::top_k>("top-k"),
    sampler_parameter<&engine::SamplerSettings::top_p>("top-p"),
    sampler_parameter<&engine::SamplerSettings::min_p>("min-p"),
    sampler_parameter<&engine::SamplerSettings::repeat_penalty>("repeat-penalty"),
    sampler_parameter<&engine::SamplerSettings::repeat_last_n>("repeat-last-n"),
    sampler_parameter<&engine::SamplerSettings::presence_penalty>("presence-penalty"),
    sampler_parameter<&engine::SamplerSettings::frequency_penalty>("frequency-penalty"),
    Parameter{"max-tokens num-predict n-predict predict n",
              [](const Generate& options) { return fmt::format("{}", options.max_tokens); },
              [](Generate& options, std::string_view value) -> Result<void> {
                PLUMB_TRY(const auto given, number<std::int64_t>(value));
                PLUMB_TRY(options.max_tokens, token_limit(given));
                return {};
              }},
    Parameter{
        "stop",
        [](const Generate& options) { return Json(options.stop).dump(-1, ' ', false, Json::error_handler_t::replace); },
        [](Generate& options, std::string_view value) -> Result<void> {
          if (value.empty()) {
            options.stop.clear();
          } else {
            options.stop.emplace_back(value);
          }
          return {};
        }},
};

bool has_name(std::string_view names, std::string_view name) {
  while (!names.empty()) {
    const auto [first, rest] = first_word(names);
    if (first == name) return true;
    names = rest;
  }
  return false;
}

class Chat {
 public:
  explicit Chat(const ChatOptions& options) : options_(options), verbose_(options.verbose) {}
  Result<int> run();

 private:
  struct Command {
    std::string_view names;  // the first is the one that is shown
    std::string_view arguments, summary;
    Result<void> (Chat::*act)(std::string_view argument);
  };
  static const std::array<Command, 12> commands;
  static const Command* find(std::string_view name);

  Result<void> load(const EngineArguments& arguments);
  Result<void> take(const std::string& text);
  // attempt: how often the message was answered before.
  Result<void> ask(const std::string& message, std::uint64_t attempt = 0);
  void greet() const;
  [[nodiscard]] std::optional<Completions> complete(std::string_view before) const;

  Result<void> help(std::string_view argument);
  Result<void> end(std::string_view argument);
  Result<void> clear(std::string_view argument);
  Result<void> system(std::string_view argument);
  Result<void> set(std::string_view argument);
  Result<void> show(std::string_view argument);
  Result<void> save(std::string_view argument);
  Result<void> load_file(std::string_view argument);
  Result<void> read_in(std::string_view argument);
  Result<void> retry(std::string_view argument);
  Result<void> edit(std::string_view argument);
  Result<void> tokens(std::string_view argument);
  Result<void> set_context(std::string_view value);
  Result<void> think(bool on);

  ChatOptions options_;
  Generate generate_;
  bool verbose_;
  std::optional<bool> thinks_;  // as /set says
  std::unique_ptr<engine::Engine> engine_;
  std::unique_ptr<Conversation> conversation_;
  std::optional<Input> input_;
  std::optional<Conversation::Answer> last_;
  std::string read_;     // files that go before the next message
  std::string initial_;  // what the editor begins with
  std::uint64_t attempt_ = 0;
  Result<int> printed_ = 0;
  bool ended_ = false;
};

constexpr std::array other_settings{
    std::pair{"parameter NAME VALUE", "as --NAME does; 'parameter' may be left out"},
    std::pair{"ctx POSITIONS", "the length of the context"},
    std::pair{"seed NUMBER", "the same seed gives the same answers; -1: another one each time"},
    std::pair{"system TEXT", "as /system"},
    std::pair{"think", "the model thinks before it answers"},
    std::pair{"nothink", "it does not"},
    std::pair{"verbose", "speed and context used after each answer"},
    std::pair{"quiet", "no longer"},
    std::pair{"history", "keep what is typed for the next time"},
    std::pair{"nohistory", "do not"},
};
constexpr std::array<std::string_view, 7> show_topics{"info",    "parameters", "system",  "template",
                                                      "license", "messages",   "thinking"};

const std::array<Chat::Command, 12> Chat::commands{{
    {"help ?", "", "These commands, and the keys", &Chat::help},
    {"bye exit quit", "", "End; so does Ctrl-D", &Chat::end},
    {"clear reset new", "", "Forget the conversation", &Chat::clear},
    {"system", "[TEXT]", "Show or replace the system message; \"\" is none", &Chat::system},
    {"set", "[NAME VALUE]", "Change a setting; alone, list them", &Chat::set},
    {"show", "[TOPIC]", "info, parameters, system, template, license, messages or thinking", &Chat::show},
    {"save", "FILE", "Write the conversation as a list of messages", &Chat::save},
    {"load", "FILE|MODEL", "Go on with a saved conversation, or with another model", &Chat::load_file},
    {"read", "FILE", "Put a file's text before the next message", &Chat::read_in},
    {"retry regen regenerate", "", "Answer the last message once more", &Chat::retry},
    {"edit", "[TEXT]", "Take the last message back and change it", &Chat::edit},
    {"tokens", "", "Probabilities of the last answer's tokens", &Chat::tokens},
}};

const Chat::Command* Chat::find(std::string_view name) {
  const auto* const found =
      std::ranges::find_if(commands, [&](const Command& command) { return has_name(command.names, name); });
  return found == commands.end() ? nullptr : found;
}

Result<void> Chat::load(const EngineArguments& arguments) {
  PLUMB_TRY(auto engine, arguments.load());
  if (!engine->has_chat_template()) {
    return fail("{}: the file has no chat template; 'plumb run --raw' completes a text with it", arguments.model);
  }
  PLUMB_CHECK(options_.sampler.take_recommended(engine->model().file(), generate_.sampler));
  PLUMB_TRY(auto conversation, Conversation::begin(*engine, arguments.settings.context));
  if (conversation_) conversation->set_messages(conversation_->messages());
  conversation_ = std::move(conversation);
  engine_ = std::move(engine);
  if (thinks_ && can_switch_thinking(*engine_)) PLUMB_CHECK(think(*thinks_));
  options_.engine.model = arguments.model;
  last_.reset();
  return {};
}

void Chat::greet() const {
  const std::uint32_t trained = engine_->model().plan()->context;
  std::string why = "all that the model was made for";
  if (options_.engine.settings.context > 0) {
    why = fmt::format("as asked; the model was made for {}", trained);
  } else if (conversation_->context() < trained) {
    why = fmt::format("what memory allows of the {} that the model was made for", trained);
  }
  fmt::print(stderr, "{} on {}; context {}: {}. /help lists the commands, Ctrl-D ends.\n", printable(options_.engine.model),
             engine_->description(), conversation_->context(), why);
}

Result<int> Chat::run() {
  PLUMB_TRY(generate_.sampler, options_.sampler.read());
  PLUMB_TRY(generate_.max_tokens, token_limit(options_.max_tokens));
  generate_.n_logprobs = n_alternatives;
  generate_.interrupted = interrupted;
  PLUMB_CHECK(load(options_.engine));
  conversation_->set_system(options_.system);
  catch_interrupts();
  input_.emplace([this](std::string_view before) { return complete(before); });
  greet();
  while (!ended_) {
    clear_interrupt();
    const auto [kind, text] = input_->read(std::exchange(initial_, {}));
    if (kind == Input::Kind::end) break;
    if (kind == Input::Kind::nothing) continue;
    if (const auto done = take(text); !done) complain(done.error().message);
    PLUMB_CHECK(printed_);
  }
  return 0;
}

// A command, or a message. A word such as /usr/bin is no command.
Result<void> Chat::take(const std::string& text) {
  const std::string_view inner = trimmed(text);
  if (inner.empty()) return {};
  if (!text.starts_with('/')) return ask(std::string(inner.starts_with('/') ? inner : without_quotes(text)));
  const auto [word, rest] = first_word(inner);
  const std::string name = in_small_letters(std::string(word.substr(1)));
  const bool has_lines = inner.find('\n') != std::string_view::npos;
  const Command* const command = find(name);
  if (command != nullptr && (!has_lines || command->arguments.find("TEXT") != std::string_view::npos)) {
    return (this->*command->act)(rest);
  }
  if (has_lines || name.find_first_of("/.") != std::string::npos) return ask(text);
  std::vector<std::string> known;
  for (const Command& other : commands) {
    for (std::string_view names = other.names; !names.empty(); names = first_word(names).second) {
      known.push_back(fmt::format("/{}", first_word(names).first));
    }
  }
  return fail("there is no command {}{}; /help lists them, and a space before the / makes it a message", word,
              suggestion("/" + name, known));
}

Result<void> Chat::ask(const std::string& message, std::uint64_t attempt) {
  attempt_ = attempt;
  Generate generate = generate_;
  if (options_.sampler.seed.text == "-1") {
    PLUMB_TRY(generate.sampler.seed, options_.sampler.seed.read());
  } else {
    generate.sampler.seed += attempt;
  }
  std::optional<AnswerPrinter> printer;
  const Conversation::Events events{.begin = [&](bool opened) { printer.emplace(opened, options_.hide_thinking); },
                                    .text =
                                        [&](std::string_view text) {
                                          printed_ = printer->add(text);
                                          return printed_ && !interrupted();
                                        },
                                    .dropped =
                                        [&](std::size_t turns) {
                                          if (printer) fmt::print(stderr, "\n");
                                          note("(the context of {} positions is full: the {} went)",
                                               conversation_->context(),
                                               turns == 1 ? "oldest turn" : fmt::format("{} oldest turns", turns));
                                        }};
  auto said = conversation_->say(read_ + message, generate, events);
  if (printer && printed_) printed_ = printer->end();
  if (!said) return fail(said.error());
  read_.clear();
  last_ = std::move(*said);
  const engine::Completion& completion = last_->completion;
  if (completion.reason == engine::StopReason::context_full) note("(the context is full)");
  if (!verbose_) return {};
  const auto rate = [](std::uint64_t n, double seconds) { return seconds > 0 ? static_cast<double>(n) / seconds : 0; };
  const std::size_t n_decoded = completion.tokens.empty() ? 0 : completion.tokens.size() - 1;
  note("(prompt {} tokens, {:.1f} tokens/s; answer {} tokens, {:.1f} tokens/s; context {} of {}; seed {})",
       completion.n_prompt, rate(completion.n_prompt, completion.prompt_seconds), completion.tokens.size(),
       rate(n_decoded, completion.decode_seconds), conversation_->used(), conversation_->context(), generate.sampler.seed);
  return {};
}

Result<void> Chat::help(std::string_view) {
  std::string text;
  for (const Command& command : commands) {
    const auto [name, others] = first_word(command.names);
    std::string also;
    for (std::string_view rest = others; !rest.empty(); rest = first_word(rest).second) {
      also += fmt::format("{}/{}", also.empty() ? "; also " : ", ", first_word(rest).first);
    }
    text += fmt::format("  {:<22}{}{}\n", fmt::format("/{} {}", name, command.arguments), command.summary, also);
  }
  fmt::print(stderr,
             "{}A message of several lines: paste it, put it between \"\"\" and \"\"\", end a line with \\, or press "
             "Alt-Enter.\nCtrl-C stops an answer or drops the line, Up and Ctrl-R find earlier lines, Tab completes.\n",
             text);
  return {};
}

Result<void> Chat::end(std::string_view) {
  ended_ = true;
  return {};
}

Result<void> Chat::clear(std::string_view) {
  conversation_->clear();
  last_.reset();
  read_.clear();
  note("The conversation begins anew.");
  return {};
}

Result<void> Chat::system(std::string_view argument) {
  if (argument.empty()) return show("system");
  const std::string_view text = unquoted(argument);
  conversation_->set_system(std::string(text));
  note("{}", text.empty() ? "There is no system message now." : "The system message is set.");
  return {};
}

Result<void> Chat::set_context(std::string_view value) {
  PLUMB_TRY(const auto positions, number<std::uint32_t>(value));
  if (positions == 0) return fail("'{}': expected at least 1", value);
  PLUMB_CHECK(conversation_->set_context(positions));
  options_.engine.settings.context = positions;
  return {};
}

Result<void> Chat::think(bool on) {
  if (!can_switch_thinking(*engine_)) {
    return fail("the model's chat template has no switch for thinking; it thinks before each answer, or never");
  }
  Json variables = engine_->settings().chat.variables;
  set_thinking(variables, on);
  engine_->set_template_variables(std::move(variables));
  thinks_ = on;
  return {};
}

Result<void> Chat::set(std::string_view argument) {
  auto [first, rest] = first_word(argument);
  if (first == "parameter") std::tie(first, rest) = first_word(rest);
  if (first.empty()) {
    for (const auto& [what, summary] : other_settings) fmt::print(stderr, "  /set {:<21}{}\n", what, summary);
    return show("parameters");
  }
  std::string name(first.substr(std::min(first.find_first_not_of('-'), first.size())));
  std::ranges::replace(name, '_', '-');
  const std::string_view value = unquoted(rest);
  const auto done = [&] { note("{} {}", name, value); };
  if (name == "system") return system(rest);
  if (has_name("verbose quiet", name)) {
    verbose_ = name == "verbose";
    note("{}", verbose_ ? "Speed and context used are shown after each answer." : "They are no longer shown.");
  } else if (has_name("history nohistory", name)) {
    input_->keep_history(name == "history");
    note("What is typed is {}kept for the next time.", name == "history" ? "" : "not ");
  } else if (has_name("wordwrap nowordwrap", name)) {
    return fail("/set {}: lines break where the terminal breaks them", name);
  } else if (has_name("think nothink", name)) {
    const bool off = has_name("false off no 0", value);
    if (!off && !value.empty() && !has_name("true on yes 1", value)) {
      return fail("/set {} '{}': expected true or false", name, value);
    }
    PLUMB_CHECK(think((name == "think") != off));
    note("The model is told {}to think before it answers.", *thinks_ ? "" : "not ");
  } else if (has_name("format noformat", name)) {
    return fail("/set {}: not yet", name);
  } else if (has_name("ctx ctx-size num-ctx context", name)) {
    if (rest.empty()) return fail("/set {}: how many positions?", name);
    PLUMB_CHECK(set_context(value));
    done();
  } else if (name == "seed") {
    if (rest.empty()) return fail("/set seed: which number?");
    const SeedArgument seed{.text = std::string(value)};
    PLUMB_TRY(generate_.sampler.seed, seed.read());
    options_.sampler.seed = seed;
    done();
  } else {
    const auto* const found =
        std::ranges::find_if(chat_parameters, [&](const Parameter& parameter) { return has_name(parameter.names, name); });
    if (found == chat_parameters.end()) {
      std::vector<std::string> known;
      known.reserve(chat_parameters.size() + other_settings.size());
      for (const Parameter& parameter : chat_parameters) known.emplace_back(first_word(parameter.names).first);
      for (const auto& [what, summary] : other_settings) known.emplace_back(first_word(what).first);
      return fail("there is no setting '{}'{}; /set lists them", name, suggestion(name, known));
    }
    if (!rest.empty()) PLUMB_CHECK(found->set(generate_, value));
    note("{} {}", first_word(found->names).first, found->shown(generate_));
  }
  return {};
}

Result<void> Chat::show(std::string_view argument) {
  const auto say = [](std::string_view text) { fmt::print(stderr, "{}\n", printable(text)); };
  const gguf::File& file = engine_->model().file();
  if (argument.empty() || argument == "info") {
    const auto& p = engine_->model().parameters();
    say(fmt::format(
        "model      {}\n           {}, {} layers, {}\nruns on    {}\ncontext    {} of {} used; the model was made "
        "for {}\nturns      {}",
        options_.engine.model, p.architecture, p.n_layers, format_bytes(file.size_bytes()), engine_->description(),
        conversation_->used(), conversation_->context(), engine_->model().plan()->context, conversation_->n_turns()));
  } else if (argument == "parameters") {
    for (const Parameter& parameter : chat_parameters) {
      say(fmt::format("  {:<20}{}", first_word(parameter.names).first, parameter.shown(generate_)));
    }
    say(fmt::format("  {:<20}{}\n  {:<20}{}", "seed", options_.sampler.seed.text, "ctx", conversation_->context()));
  } else if (argument == "system") {
    const std::string text = conversation_->system();
    say(text.empty() ? "There is no system message." : text);
  } else if (argument == "template") {
    say(engine_->chat_template_text());
  } else if (argument == "license") {
    if (file.find("general.license") == nullptr) return fail("the file names no license");
    PLUMB_TRY(const std::string_view text, file.get_string("general.license"));
    say(text);
  } else if (has_name("messages history", argument)) {
    for (const Json& message : conversation_->messages()) {
      say(fmt::format("{}: {}", message.value("role", ""), message.value("content", "")));
    }
  } else if (argument == "thinking") {
    if (!last_ || last_->thinking.empty()) return fail("the last answer came without thinking");
    say(last_->thinking);
  } else if (argument == "modelfile") {
    return fail("Plumb has no modelfiles; /show info and /show parameters have what it uses");
  } else {
    return fail("/show knows {}{}", fmt::join(show_topics, ", "),
                suggestion(argument, std::vector<std::string>(show_topics.begin(), show_topics.end())));
  }
  return {};
}

// The path of an argument: without quotes, and "~/" is the user's folder.
Result<std::filesystem::path> path_of(std::string_view command, std::string_view argument) {
  const std::string_view name = unquoted(argument);
  if (name.empty()) return fail("{}: which file?", command);
  const char* home = std::getenv("HOME");
  if (name.starts_with("~/") && home != nullptr) return std::filesystem::path(home) / name.substr(2);
  return std::filesystem::path(name);
}

// The messages of a saved conversation, or of a file for `plumb template --messages`.
Result<Json> saved_messages(const std::string& path) {
  PLUMB_TRY(const std::string text, read_file(path, max_file_bytes));
  Json json = Json::parse(text, nullptr, false);
  if (json.is_object() && json.contains("messages")) json = Json(json["messages"]);
  const bool valid = json.is_array() && std::ranges::all_of(json, [](const Json& message) {
                       const auto has = [&](const char* key) { return message.contains(key) && message[key].is_string(); };
                       return message.is_object() && has("role") && has("content");
                     });
  if (!valid) return fail("{}: this is no conversation, a JSON list of messages with role and content", path);
  return json;
}

Result<void> Chat::save(std::string_view argument) {
  PLUMB_TRY(const auto path, path_of("/save", argument));
  if (std::filesystem::exists(path) && !saved_messages(path.string())) {
    return fail("{}: there is another kind of file of this name; choose another", path.string());
  }
  PLUMB_TRY(NewFile file, NewFile::create(path));
  const std::string text = conversation_->messages().dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  PLUMB_CHECK(file.append(std::as_bytes(std::span(text))));
  PLUMB_CHECK(file.finish());
  note("The conversation is in {}.", path.string());
  return {};
}

Result<void> Chat::load_file(std::string_view argument) {
  PLUMB_TRY(const auto path, path_of("/load", argument));
  std::error_code ignored;
  const bool is_file = std::filesystem::is_regular_file(path, ignored);
  if (is_file && path.extension() != ".gguf") {
    PLUMB_TRY(Json messages, saved_messages(path.string()));
    conversation_->set_messages(std::move(messages));
    last_.reset();
    const std::size_t n = conversation_->n_turns();
    note("The conversation goes on after {} turn{}.", n, n == 1 ? "" : "s");
    return {};
  }
  EngineArguments arguments = options_.engine;
  arguments.model = path.string();
  const bool is_name = arguments.model.find_first_of("/.") == std::string::npos;
  if (auto loaded = load(arguments); !loaded) {
    if (!is_name && !is_file) return fail("{}: there is no such file", path.string());
    return loaded;
  }
  greet();
  return {};
}

Result<void> Chat::read_in(std::string_view argument) {
  PLUMB_TRY(const auto path, path_of("/read", argument));
  PLUMB_TRY(const std::string text, read_file(path.string(), max_file_bytes));
  read_ += fmt::format("{}:\n{}{}\n", path.filename().string(), text, text.ends_with('\n') ? "" : "\n");
  note("{} goes before the next message.", path.string());
  return {};
}

Result<void> Chat::retry(std::string_view) {
  const Json before = conversation_->messages();
  const auto message = conversation_->take_back();
  if (!message) return fail("there is no message to answer yet");
  auto asked = ask(*message, attempt_ + 1);
  if (!asked) conversation_->set_messages(before);
  return asked;
}

Result<void> Chat::edit(std::string_view argument) {
  if (argument.empty() && !input_->edits()) return fail("/edit: give the new text behind it");
  const Json before = conversation_->messages();
  const auto message = conversation_->take_back();
  if (!message) return fail("there is no message to change yet");
  last_.reset();
  if (argument.empty()) {
    initial_ = *message;
    return {};
  }
  auto asked = ask(std::string(unquoted(argument)));
  if (!asked) conversation_->set_messages(before);
  return asked;
}

Result<void> Chat::tokens(std::string_view) {
  if (!last_) return fail("there is no answer yet");
  const auto percent = [](double logprob) { return fmt::format("{:.1f} %", 100 * std::exp(logprob)); };
  const auto shown = [&](text::TokenId token) {
    const std::string text = engine_->tokenizer().token_text(token, true);
    return printable(Json(text).dump(-1, ' ', false, Json::error_handler_t::replace));
  };
  std::string lines;
  for (const engine::GeneratedToken& token : last_->completion.tokens) {
    lines += fmt::format("{:>8}  {:<16}", percent(token.logprob), shown(token.id));
    for (const auto& other : token.top) {
      if (other.id != token.id) lines += fmt::format("  {} {}", shown(other.id), percent(other.logprob));
    }
    lines += "\n";
  }
  fmt::print(stderr, "{}", lines);
  return {};
}

// Files whose path begins so; folders end in '/'.
std::vector<std::string> files_that_begin(std::string_view begin) {
  const std::size_t slash = begin.rfind('/');
  const std::string folder(begin.substr(0, slash == std::string_view::npos ? 0 : slash + 1));
  const auto place = path_of("", folder.empty() ? "./" : folder);
  std::vector<std::string> found;
  std::error_code error;
  if (!place) return found;
  for (const auto& entry : std::filesystem::directory_iterator(*place, error)) {
    const std::string path = folder + entry.path().filename().string();
    const bool is_hidden = entry.path().filename().string().starts_with('.') && !begin.ends_with('.');
    const bool is_shown = !is_hidden && printable(path, Lines::escape) == path;
    if (path.starts_with(begin) && is_shown) found.push_back(path + (entry.is_directory(error) ? "/" : ""));
  }
  std::ranges::sort(found);
  return found;
}

std::optional<Completions> Chat::complete(std::string_view before) const {
  if (!before.starts_with('/') || before.find('\n') != std::string_view::npos) return std::nullopt;
  Completions found;
  const auto offer = [&](std::string_view text, std::string_view behind) {
    if (text.starts_with(before.substr(found.begin))) found.texts.push_back(fmt::format("{}{}", text, behind));
  };
  const auto [word, rest] = first_word(before);
  if (word.size() == before.size()) {
    for (const Command& command : commands) {
      offer(fmt::format("/{}", first_word(command.names).first), command.arguments.empty() ? "" : " ");
    }
    return found;
  }
  found.begin = before.find_last_of(' ') + 1;
  const Command* const command = find(word.substr(1));
  if (command == nullptr) return found;
  const std::string_view earlier = trimmed(before.substr(word.size(), found.begin - word.size()));
  if (command->arguments.starts_with("FILE")) {
    found.begin = before.size() - rest.size();
    found.texts = files_that_begin(rest);
  } else if (command->act == &Chat::show && earlier.empty()) {
    for (const std::string_view topic : show_topics) offer(topic, "");
  } else if (command->act == &Chat::set && (earlier.empty() || earlier == "parameter")) {
    for (const Parameter& parameter : chat_parameters) offer(first_word(parameter.names).first, " ");
    for (const auto& [what, summary] : other_settings) {
      const auto [name, value] = first_word(what);
      if (earlier.empty()) offer(name, value.empty() ? "" : " ");
    }
  }
  return found;
}

}  // namespace

Result<int> chat(const ChatOptions& options) { return Chat(options).run(); }

Action setup_chat(CLI::App& app) {
  auto options = std::make_shared<ChatOptions>();
  options->engine.add(app);
  app.add_option("-n,--max-tokens,--predict,--n-predict", options->max_tokens,
                 "Tokens an answer may have (0 or -1: until the model ends)");
  options->sampler.add(app);
  options->engine.chat.add(app);
  app.add_option("--system,--system-prompt", options->system, "System message");
  app.add_flag("--hide-thinking", options->hide_thinking, "Do not print what the model thinks before it answers");
  app.add_flag("-v,--verbose", options->verbose, "Speed and context used after each answer, as /set verbose");
  app.add_flag_callback(
      "-i,--interactive,--conversation", [] {}, "What this command does anyway");
  add_accepted(app);
  return [options] { return chat(*options); };
}

}  // namespace plumb::cli
