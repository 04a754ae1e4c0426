#include "text/jinja/budget.h"

namespace plumb::text::jinja {

void Budget::step(std::uint64_t count) {
  steps_ += count;
  if (steps_ > limits_.max_steps) {
    raise("the template runs for more than {} steps; it may loop without end", limits_.max_steps);
  }
}

void Budget::take(std::size_t bytes) {
  expect(bytes);
  memory_ += bytes;
}

void Budget::expect(std::size_t bytes) const {
  if (bytes > limits_.max_memory_bytes || memory_ > limits_.max_memory_bytes - bytes) {
    raise("the template uses more than {} bytes of memory", limits_.max_memory_bytes);
  }
}

void TextBuilder::append(std::string_view text) {
  budget_.work(text.size());
  budget_.take(text.size());
  text_.append(text);
}

}  // namespace plumb::text::jinja
