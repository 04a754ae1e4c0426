#include <fmt/format.h>
#include <histedit.h>
#include <unistd.h>

#include <clocale>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <optional>

#include "cli/command.h"
#include "cli/pull.h"
#include "cli/spelling.h"

namespace plumb::cli {

namespace {

constexpr int history_length = 1000;

// Reads lines from the terminal, with editing and with a history in the user's cache folder. Where stdin is no terminal, it
// reads plain lines.
class LineReader {
 public:
  LineReader() {
    if (isatty(STDIN_FILENO) != 1) return;
    // The editor reads characters in the locale's encoding; under "C" it would drop all that are not ASCII.
    if (std::setlocale(LC_CTYPE, "") == nullptr || MB_CUR_MAX == 1) std::setlocale(LC_CTYPE, "C.UTF-8");
    editor_.reset(el_init("plumb", stdin, stderr, stderr));
    history_.reset(history_init());
    if (!editor_ || !history_) return;
    HistEvent event;
    history(history_.get(), &event, H_SETSIZE, history_length);
    history(history_.get(), &event, H_SETUNIQUE, 1);
    if (const auto models = models_folder()) {
      history_file_ = (models->parent_path() / "chat_history").string();
      history(history_.get(), &event, H_LOAD, history_file_.c_str());
    }
    el_set(
        editor_.get(), EL_PROMPT, +[](EditLine*) { return "> "; });
    el_set(editor_.get(), EL_EDITOR, "emacs");
    el_set(editor_.get(), EL_HIST, history, history_.get());
    el_set(editor_.get(), EL_SIGNAL, 0);
    // While a line is edited, Ctrl-C is a key: a signal that comes just before the read would not end it.
    el_set(editor_.get(), EL_SETTY, "-d", "-isig", nullptr);
    el_set(
        editor_.get(), EL_ADDFN, "interrupt", "End the line", +[](EditLine*, int) -> unsigned char {
          std::raise(SIGINT);
          return CC_EOF;
        });
    el_set(editor_.get(), EL_BIND, "^C", "interrupt", nullptr);
  }

  ~LineReader() {
    if (!history_ || history_file_.empty()) return;
    std::error_code ignored;
    std::filesystem::create_directories(std::filesystem::path(history_file_).parent_path(), ignored);
    HistEvent event;
    const std::string unfinished = history_file_ + ".new";
    if (history(history_.get(), &event, H_SAVE, unfinished.c_str()) >= 0) {
      std::filesystem::rename(unfinished, history_file_, ignored);
    }
  }

  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  // The next line without its newline; none at the end of input. Ctrl-C gives an empty line and sets interrupted().
  std::optional<std::string> read() {
    if (!editor_) {
      std::string line;
      if (!std::getline(std::cin, line)) return std::nullopt;
      return line;
    }
    // Before the prompt: what is typed after it is read as keys.
    el_set(editor_.get(), EL_PREP_TERM, 1);
    int n = 0;
    const char* text = interrupted() ? nullptr : el_gets(editor_.get(), &n);
    if (text == nullptr || n <= 0) {
      if (interrupted()) {
        fmt::print(stderr, "\n");
        return "";
      }
      return std::nullopt;
    }
    std::string line(text, static_cast<std::size_t>(n));
    while (line.ends_with('\n') || line.ends_with('\r')) line.pop_back();
    if (!line.empty()) {
      HistEvent event;
      history(history_.get(), &event, H_ENTER, line.c_str());
    }
    return line;
  }

 private:
  std::unique_ptr<History, void (*)(History*)> history_{nullptr, history_end};
  std::unique_ptr<EditLine, void (*)(EditLine*)> editor_{nullptr, el_end};
  std::string history_file_;
};

// A conversation and its KV cache. Each turn runs only the tokens that are not yet in the cache.
class Conversation {
 public:
  Conversation(engine::Engine& engine, std::unique_ptr<backends::KvCache> cache, std::string system)
      : engine_(engine), cache_(std::move(cache)), system_(std::move(system)) {
    reset();
  }

  void reset() {
    messages_ = Json::array();
    if (!system_.empty()) messages_.push_back({{"role", "system"}, {"content", system_}});
    cache_->truncate(0);
    cached_.clear();
  }

  // Adds the user's message and the model's answer. on_text receives the answer piece by piece.
  Result<engine::Completion> say(const std::string& text, const engine::GenerateOptions& options,
                                 const engine::Engine::OnText& on_text) {
    messages_.push_back({{"role", "user"}, {"content", text}});
    auto answer = answer_messages(options, on_text);
    if (answer) {
      messages_.push_back({{"role", "assistant"}, {"content", answer->text}});
    } else {
      messages_.erase(messages_.size() - 1);
    }
    return answer;
  }

 private:
  Result<engine::Completion> answer_messages(const engine::GenerateOptions& options,
                                             const engine::Engine::OnText& on_text) {
    PLUMB_TRY(const auto tokens, engine_.chat_tokens(messages_));
    if (tokens.size() >= cache_->capacity()) {
      return fail(
          "the conversation is {} tokens long and the context has {} positions; /reset starts anew, --ctx makes it longer",
          tokens.size(), cache_->capacity());
    }
    // At least one token must run, because its logits are needed.
    std::size_t common = 0;
    while (common + 1 < tokens.size() && common < cached_.size() && tokens[common] == cached_[common]) ++common;
    cache_->truncate(static_cast<std::uint32_t>(common));
    cached_.resize(common);
    PLUMB_TRY(engine::Completion completion,
              engine_.generate(*cache_, std::span(tokens).subspan(common), options, on_text));
    cached_ = tokens;
    for (const auto& token : completion.tokens) cached_.push_back(token.id);
    cached_.resize(cache_->length());
    return completion;
  }

  engine::Engine& engine_;
  std::unique_ptr<backends::KvCache> cache_;
  std::string system_;
  Json messages_;
  std::vector<text::TokenId> cached_;  // the tokens that the cache holds
};

}  // namespace

Result<int> chat(const ChatOptions& options) {
  PLUMB_TRY(engine::SamplerSettings settings, options.sampler.read());
  PLUMB_TRY(const std::uint32_t max_tokens, token_limit(options.max_tokens));
  PLUMB_TRY(const auto engine, options.engine.load());
  if (!engine->has_chat_template()) {
    return fail("{}: the file has no chat template; 'plumb run --raw' completes a text with it", options.engine.model);
  }
  PLUMB_TRY(auto cache, engine->new_cache());
  Conversation conversation(*engine, std::move(cache), options.system);
  const engine::GenerateOptions generate{.max_tokens = max_tokens, .sampler = settings};
  catch_interrupts();
  LineReader reader;
  fmt::print(stderr, "{} on {}. Ctrl-C stops an answer, /reset forgets the conversation, /quit or Ctrl-D ends.\n",
             options.engine.model, engine->description());
  for (;;) {
    clear_interrupt();
    const auto line = reader.read();
    if (!line || *line == "/quit" || *line == "/exit") break;
    if (interrupted() || line->find_first_not_of(" \t") == std::string::npos) continue;
    if (*line == "/reset") {
      conversation.reset();
      fmt::print(stderr, "The conversation begins anew.\n");
      continue;
    }
    Result<int> printed = 0;
    const auto answer = conversation.say(*line, generate, [&](std::string_view text) {
      printed = print(text);
      return printed && !interrupted();
    });
    PLUMB_CHECK(printed);
    if (!answer) {
      fmt::print(stderr, "plumb: {}\n", answer.error().message);
      continue;
    }
    PLUMB_CHECK(print("\n"));
    if (answer->reason == engine::StopReason::context_full) fmt::print(stderr, "(the context is full)\n");
  }
  return 0;
}

Action setup_chat(CLI::App& app) {
  auto options = std::make_shared<ChatOptions>();
  options->engine.add(app);
  app.add_option("-n,--max-tokens,--predict,--n-predict", options->max_tokens,
                 "Tokens an answer may have (0 or -1: until the model ends)");
  options->sampler.add(app);
  app.add_option("--system,--system-prompt", options->system, "System message");
  app.add_flag_callback(
      "-i,--interactive,--conversation", [] {}, "What this command does anyway");
  add_accepted(app);
  return [options] { return chat(*options); };
}

}  // namespace plumb::cli
