// Plumb as a library: opens a GGUF model and lets it answer. This is the only installed header for it, and it needs nothing
// but the standard library. Everything behind the header may change.
//
//   plumb::Model model = plumb::Model::open("canary");
//   std::cout << model.ask("1") << '\n';
//
// Failures throw plumb::Exception. Its what() is a sentence that names the file, the item and the remedy.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

namespace plumb {

class Exception : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Options {
  std::string backend = "auto";  // auto, reference, cpu
  std::uint32_t threads = 0;     // 0: the cores this process may use
  std::uint32_t context = 0;     // positions; 0: the model's own, at most 4096
};

struct AskOptions {
  double temperature = 0;  // 0: always the most likely token
  std::uint64_t seed = 0;
  std::uint32_t max_tokens = 0;  // 0: until the model ends or the context is full
  std::string system;            // system message, if any
  bool raw = false;              // true: the prompt goes to the model as it is, without the chat template
};

class Model {
 public:
  // `path`: a .gguf file (or the first of a split set), or "canary", the model that is part of the library.
  static Model open(const std::string& path, const Options& options = {});

  // The answer to one prompt. `on_text` receives it piece by piece and returns false to stop.
  std::string ask(std::string_view prompt, const AskOptions& options = {},
                  const std::function<bool(std::string_view)>& on_text = {});

  Model(Model&&) noexcept;
  Model& operator=(Model&&) noexcept;
  ~Model();

 private:
  struct State;
  explicit Model(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace plumb
