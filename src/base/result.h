// Errors as values. Every function of Plumb that can fail returns Result<T>; exceptions do not cross module borders. An
// Error is one sentence for a person: what is wrong, where (file, tensor, key, byte, line), and what to do about it.
#pragma once

#include <fmt/format.h>

#include <string>
#include <tl/expected.hpp>
#include <utility>

namespace plumb {

struct Error {
  std::string message;
};

template <class T>
using Result = tl::expected<T, Error>;

// A failed Result with a formatted message: `return fail("{}: tensor '{}' ends at byte {}", path, name, end);`
template <class... Args>
[[nodiscard]] tl::unexpected<Error> fail(fmt::format_string<Args...> format, Args&&... args) {
  return tl::unexpected<Error>(Error{fmt::format(format, std::forward<Args>(args)...)});
}

[[nodiscard]] inline tl::unexpected<Error> fail(Error error) { return tl::unexpected<Error>(std::move(error)); }

}  // namespace plumb

#define PLUMB_CONCAT_INNER(a, b) a##b
#define PLUMB_CONCAT(a, b) PLUMB_CONCAT_INNER(a, b)

// PLUMB_TRY(auto file, gguf::File::open(path)); binds the value or returns the error to the caller.
// NOLINTBEGIN(bugprone-macro-parentheses): a declaration cannot stand in parentheses.
#define PLUMB_TRY(declaration, expression) PLUMB_TRY_IMPL(PLUMB_CONCAT(plumb_try_, __LINE__), declaration, expression)
#define PLUMB_TRY_IMPL(temporary, declaration, expression)            \
  auto temporary = (expression);                                      \
  if (!temporary) return ::plumb::fail(std::move(temporary).error()); \
  declaration = std::move(*temporary)
// NOLINTEND(bugprone-macro-parentheses)

// PLUMB_CHECK(step()); for a Result<void>: returns the error to the caller.
#define PLUMB_CHECK(expression)                                                                              \
  do {                                                                                                       \
    if (auto plumb_check = (expression); !plumb_check) return ::plumb::fail(std::move(plumb_check).error()); \
  } while (false)
