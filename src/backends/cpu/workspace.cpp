#include "backends/cpu/workspace.h"

#include <algorithm>

#include "backends/cpu/stages.h"

namespace plumb::backends::cpu {

Result<void> Memory::reserve(std::size_t size, std::string_view what) {
  if (size_ >= size) return {};
  bytes_.reset();
  size_ = 0;
  bytes_ = allocate_aligned(size);
  if (!bytes_) return fail("no memory for {} bytes of {}; use a smaller batch or a shorter context", size, what);
  size_ = size;
  return {};
}

void Memory::poison() { std::fill_n(bytes_.get(), size_, Executor::poison); }

Workspace::Workspace(const plan::Plan& of, const Batch& rows, const KernelTable& table, int n_planes, std::uint32_t threads)
    : plan(of),
      batch(rows),
      kernels(table),
      planes(n_planes),
      n_threads(threads),
      vectors(decode_vectors(of)),
      schedule(make_schedule(of, rotations_of(of, vectors), n_planes)),
      angles(schedule.rotations.angles.size()),
      scratch(threads) {}

Result<void> Workspace::reserve(bool poisons) {
  PLUMB_CHECK(tokens.reserve(schedule.layout.token_bytes * batch.n_rows(), "working memory"));
  PLUMB_CHECK(outputs.reserve(schedule.layout.output_bytes * batch.n_outputs, "working memory"));
  for (std::size_t i = 0; i < angles.size(); ++i) {
    const std::size_t n = std::size_t{batch.n_rows()} * schedule.rotations.angles[i].n_rot;
    PLUMB_CHECK(angles[i].reserve(n * sizeof(float), "working memory"));
  }
  const AttentionBytes attention = attention_bytes(*this);
  PLUMB_CHECK(partials.reserve(attention.partials, "attention memory"));
  for (Memory& own : scratch) {
    PLUMB_CHECK(own.reserve(std::max(kernels.scratch_bytes, attention.scratch), "working memory"));
  }
  if (poisons) {
    for (Memory* memory : {&tokens, &outputs, &partials}) memory->poison();
  }
  return {};
}

}  // namespace plumb::backends::cpu
