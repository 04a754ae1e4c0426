// Plumb as a library: opens a GGUF model and lets it answer. This header needs nothing but the standard library.
//
//   plumb::Model model = plumb::Model::open("canary");
//   std::cout << model.ask("1", {.temperature = 0}).text << '\n';
//
//   plumb::Conversation talk = model.conversation("Answer in one sentence.");
//   talk.say("Name a river.");
//   talk.say("Where does it end?", {.max_tokens = 64}, [](std::string_view text) {
//     std::cout << text << std::flush;
//     return true;
//   });
//
// Settings have the names of the command line's options (docs/cli.md) and mean the same. One that is left empty has the
// value that the command line gives it: what the model's file recommends, else a default.
//
// Failures throw plumb::Exception. Its what() is a sentence that names the file, the item and the remedy. The object that
// failed stays as it was and can still be used.
//
// Threads. Any threads may use one Model and different Conversations of it at the same time. The model computes for one of
// them at a time, an answer at a time; the others wait. One Conversation must not be used by two threads at once. A
// callback runs on the thread of the call that it was given to; it must not call the same Model or its Conversations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace plumb {

class Exception : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// "0.1.0"
std::string_view version();

using Token = std::int32_t;

// Called while a model loads, with bytes; false stops the loading, and open() throws.
using OnProgress = std::function<bool(std::uint64_t done, std::uint64_t total)>;
// Receives an answer's text piece by piece, each as soon as it is final; false ends the answer.
using OnText = std::function<bool(std::string_view text)>;

struct ModelOptions {
  std::string backend;        // "auto", "reference", "cpu", "cuda", "metal" or "checker"
  std::uint32_t threads = 0;  // 0: the cores that this process may use
  std::uint32_t ctx = 0;      // the most tokens of a conversation; 0: as the command line chooses
  std::string kv_type;        // "f16" or "f32": how keys and values are kept
  std::string activations;    // "int16" or "int8": what the cpu backend rounds the inputs of quantized products to
  OnProgress on_progress;
  std::string template_variables;  // of the chat template: a JSON object, such as {"enable_thinking":false}
};

// How an answer is made. docs/cli.md, `plumb run`, has the ranges and defaults.
struct Settings {
  std::optional<double> temperature;  // 0: always the most likely token
  std::optional<int> top_k;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<double> repeat_penalty;
  std::optional<int> repeat_last_n;
  std::optional<double> presence_penalty;
  std::optional<double> frequency_penalty;
  std::vector<std::pair<Token, float>> logit_bias;  // added to the token's logit; -infinity bans it
  std::optional<std::uint64_t> seed;                // empty: a random one, which Answer::seed names
  std::uint32_t max_tokens = 0;                     // 0: until the model ends or the context is full
  std::vector<std::string> stop;                    // the answer ends before any of these texts
  std::uint32_t logprobs = 0;                       // how many alternatives AnswerToken::top has
};

struct Message {
  std::string role;  // "system", "user", "assistant", or another that the model's template knows
  std::string content;
};

// A token that could have stood at a place, and the natural logarithm of its probability. Sampling settings do not change
// these numbers.
struct Alternative {
  Token id = 0;
  double logprob = 0;
};

struct AnswerToken {
  Token id = 0;
  std::string text;              // may be a part of a UTF-8 character; empty for a control token
  double logprob = 0;            // of this token; only where Settings::logprobs is not 0
  std::vector<Alternative> top;  // the most likely, most likely first
};

// Why an answer ended.
enum class Reason : std::uint8_t { end_of_generation, stop_text, max_tokens, context_full, interrupted };
// As `plumb run --json` prints it: "end of generation", …
std::string_view name(Reason reason);

struct Answer {
  std::string text;  // without the stop text
  std::vector<AnswerToken> tokens;
  Reason reason = Reason::end_of_generation;
  std::uint64_t prompt_tokens = 0;  // all that the answer follows, from the start of the conversation
  std::uint64_t read_tokens = 0;    // those of them that were read for this answer; the rest was known
  double prompt_seconds = 0;        // for reading
  double answer_seconds = 0;
  std::uint64_t seed = 0;
};

class Conversation;

// A loaded model. Copies are the same model.
class Model {
 public:
  // `model`: a .gguf file (or the first of a split set); the name of a model that `plumb pull` has fetched, or what it was
  // fetched by, hf:OWNER/REPO:QUANT or NAME:TAG; or "canary", the model that is part of the library. Nothing is fetched.
  static Model open(const std::string& model, const ModelOptions& options = {});

  // The answer to one prompt, through the model's chat template.
  [[nodiscard]] Answer ask(std::string_view prompt, const Settings& settings = {}, const OnText& on_text = {}) const;
  [[nodiscard]] Conversation conversation(std::string_view system = {}) const;
  // The conversation that Conversation::save() wrote. Errors: another model's, a damaged file, one longer than ctx().
  [[nodiscard]] Conversation restore(const std::string& path) const;

  // The text that the chat template makes of messages. Error: the file has no template.
  [[nodiscard]] std::string render(const std::vector<Message>& messages) const;
  // Its tokens.
  [[nodiscard]] std::vector<Token> chat_tokens(const std::vector<Message>& messages) const;
  [[nodiscard]] bool has_template() const;

  // The tokens of a text as `plumb tokenize` has them: with the special tokens that the file asks for at the ends, unless
  // no_bos is set; the text of special tokens in it is read as these tokens.
  [[nodiscard]] std::vector<Token> tokenize(std::string_view text, bool no_bos = false) const;
  [[nodiscard]] std::string detokenize(std::span<const Token> tokens) const;
  // A token as the vocabulary spells it.
  [[nodiscard]] std::string piece(Token token) const;

  // The values that empty settings have with this model. seed stays empty.
  [[nodiscard]] Settings settings() const;
  [[nodiscard]] std::uint32_t vocabulary() const;  // tokens, and logits of a step
  [[nodiscard]] std::uint32_t ctx() const;         // the most tokens of a conversation
  [[nodiscard]] std::string backend() const;       // the one that runs: "cpu"
  [[nodiscard]] std::string description() const;   // "AVX-512 VNNI, 2 threads"

 private:
  friend class Conversation;
  struct State;
  explicit Model(std::shared_ptr<State> state);
  std::shared_ptr<State> state_;
};

// What a model has read and answered so far. It keeps its model loaded. What it has read once is not read again, as far as
// the tokens stay the same.
class Conversation {
 public:
  // Adds a user's message and the model's answer to messages().
  Answer say(std::string_view text, const Settings& settings = {}, const OnText& on_text = {});
  // Puts `messages` in place of messages(), and adds the model's answer to them.
  Answer answer(std::vector<Message> messages, const Settings& settings = {}, const OnText& on_text = {});
  [[nodiscard]] const std::vector<Message>& messages() const;

  // Without a template: adds tokens to tokens(), and what the model goes on with. `more` may be empty where tokens() is
  // not. messages() is empty afterwards.
  Answer complete(std::span<const Token> more, const Settings& settings = {}, const OnText& on_text = {});
  // Adds tokens to tokens(), and returns the logits of what follows, [Model::vocabulary()]. As complete() for the rest.
  std::vector<float> logits(std::span<const Token> more);
  // All tokens so far: prompts and answers.
  [[nodiscard]] const std::vector<Token>& tokens() const;
  // Forgets tokens() from number n on, and messages().
  void rewind(std::size_t n);

  [[nodiscard]] Model model() const;
  // A second conversation that begins with all of this one.
  [[nodiscard]] Conversation fork() const;
  // Writes messages, tokens and the model's state to a file, for Model::restore(). An existing file is replaced when the
  // new one is complete.
  void save(const std::string& path) const;

  Conversation(Conversation&&) noexcept;
  Conversation& operator=(Conversation&&) noexcept;
  ~Conversation();

 private:
  friend class Model;
  struct State;
  explicit Conversation(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace plumb
