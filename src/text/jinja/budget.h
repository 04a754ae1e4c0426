// The steps and memory that a run of a template may still use, and the error that ends the run. Inside the interpreter
// errors are thrown as a Failure, which ChatTemplate turns into a Result.
#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

#include "text/jinja/limits.h"

namespace plumb::text::jinja {

struct Failure {
  std::string message;
  std::uint32_t line = 0;  // 0: not known yet; the innermost node that sees the Failure fills it in
};

template <class... Args>
[[noreturn]] void raise(fmt::format_string<Args...> format, Args&&... args) {
  throw Failure{fmt::format(format, std::forward<Args>(args)...), 0};
}

// Steps count evaluated nodes, and one for every bytes_a_step bytes of text that are read or made.
class Budget {
 public:
  static constexpr std::size_t bytes_a_step = 256;

  explicit Budget(const TemplateLimits& limits) : limits_(limits) {}

  const TemplateLimits& limits() const { return limits_; }
  void step(std::uint64_t count = 1);
  void work(std::size_t bytes) { step(bytes / bytes_a_step); }
  // Counts the memory of live values. `expect` fails early for a value that would be too large.
  void take(std::size_t bytes);
  void give(std::size_t bytes) { memory_ -= bytes; }
  void expect(std::size_t bytes) const;

 private:
  const TemplateLimits& limits_;
  std::uint64_t steps_ = 0;
  std::size_t memory_ = 0;
};

// Builds a text within the run's memory limit.
class TextBuilder {
 public:
  explicit TextBuilder(Budget& budget) : budget_(budget) {}
  ~TextBuilder() { budget_.give(text_.size()); }
  TextBuilder(const TextBuilder&) = delete;
  TextBuilder& operator=(const TextBuilder&) = delete;
  void append(std::string_view text);
  std::string take() {
    budget_.give(text_.size());
    return std::exchange(text_, {});
  }
  const std::string& view() const { return text_; }

 private:
  Budget& budget_;
  std::string text_;
};

}  // namespace plumb::text::jinja
