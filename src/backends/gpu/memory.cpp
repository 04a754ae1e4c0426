#include "backends/gpu/memory.h"

#include <algorithm>
#include <array>

namespace plumb::backends::gpu {

namespace {

// The size of the guard zones around values, to which nothing may be written, and their content.
constexpr std::size_t guard_bytes = view_alignment;
constexpr std::array<std::byte, guard_bytes> guard = [] {
  std::array<std::byte, guard_bytes> bytes{};
  for (std::byte& b : bytes) b = std::byte{0xa5};
  return bytes;
}();

// The guard zones before a value and after the rows that this step has of it.
std::array<View, 2> zones(const View& value) {
  return {View{value.memory, value.offset - guard_bytes, guard_bytes},
          View{value.memory, value.offset + value.bytes, guard_bytes}};
}

std::vector<Lifetime> lifetimes_of(const plan::Plan& plan) {
  std::vector<Lifetime> lifetimes;
  for (const plan::Value& value : plan.values) lifetimes.push_back({0, 0, value.rows, value.width * sizeof(float)});
  for (std::uint32_t i = 0; i < plan.ops.size(); ++i) {
    for (const plan::ValueId id : plan::inputs(plan.ops[i])) lifetimes[id.index].end = i;
    if (const auto out = plan::output(plan.ops[i])) lifetimes[out->index].begin = lifetimes[out->index].end = i;
  }
  lifetimes[plan.logits.index].end = static_cast<std::uint32_t>(plan.ops.size());
  return lifetimes;
}

}  // namespace

Result<void> fill_with_poison(Device& device, const View& view) {
  constexpr std::uint64_t most = 16u << 20;  // bytes at a time
  const std::vector<std::byte> bytes(std::min(most, view.bytes), Executor::poison);
  for (std::uint64_t at = 0; at < view.bytes; at += most) {
    const std::uint64_t n = std::min(most, view.bytes - at);
    PLUMB_CHECK(device.upload({view.memory, view.offset + at, n}, std::span(bytes).first(n)));
  }
  device.forget(view);
  return {};
}

StepMemory::StepMemory(Device& device, const plan::Plan& plan, const Batch& batch, bool guards)
    : device_(device),
      plan_(plan),
      batch_(batch),
      guards_(guards),
      has_lasts_(sees_later_tokens(plan)),
      layout_(lay_out(lifetimes_of(plan), view_alignment)) {}

Result<bool> StepMemory::reserve(std::uint64_t partial_bytes) {
  bool moved = false;
  if (batch_.n_rows() > n_rows_ || batch_.n_outputs > n_outputs_) {
    const std::uint32_t rows = std::max(batch_.n_rows(), n_rows_);
    const std::uint32_t outputs = std::max(batch_.n_outputs, n_outputs_);
    n_rows_ = n_outputs_ = 0;
    PLUMB_CHECK(reserve_values(rows, outputs));
    const std::vector<std::uint64_t> sizes(has_lasts_ ? 4 : 3, rows * sizeof(std::uint32_t));
    PLUMB_TRY(rows_, allocate_views(device_, sizes, "a step's tokens and positions"));
    n_rows_ = rows;
    n_outputs_ = outputs;
    moved = true;
  }
  if (partial_bytes > 0 && (!partials_ || partials_->size() < partial_bytes)) {
    partials_.reset();
    PLUMB_TRY(partials_, device_.allocate(partial_bytes, "attention's partial results"));
    moved = true;
  }
  return moved;
}

// Values with output rows have an arena of their own: in most steps they have one row.
Result<void> StepMemory::reserve_values(std::uint32_t n_rows, std::uint32_t n_outputs) {
  if (isolates()) {
    isolated_.resize(plan_.values.size());
    for (std::size_t i = 0; i < isolated_.size(); ++i) {
      const std::uint64_t n = plan_.values[i].rows == plan::Rows::tokens ? n_rows : n_outputs;
      const std::uint64_t bytes = n * plan_.values[i].width * sizeof(float) + (guards_ ? 2 * guard_bytes : 0);
      PLUMB_TRY(isolated_[i], device_.allocate(bytes, plan_.values[i].name));
    }
    return {};
  }
  token_arena_.reset();
  output_arena_.reset();
  PLUMB_TRY(token_arena_, device_.allocate(std::max<std::uint64_t>(1, layout_.token_bytes * n_rows), "a step's values"));
  PLUMB_TRY(output_arena_, device_.allocate(std::max<std::uint64_t>(1, layout_.output_bytes * n_outputs), "logits"));
  return {};
}

Result<void> StepMemory::begin(bool poisons) {
  std::vector<TokenId> tokens;
  std::vector<std::uint32_t> slots, positions, lasts;
  for (const Row& row : batch_.rows) {
    tokens.push_back(row.token);
    slots.push_back(batch_.caches[row.sequence]->slot());
    positions.push_back(row.position);
    lasts.push_back(batch_.lengths[row.sequence] - 1);
  }
  PLUMB_CHECK(device_.upload(this->tokens(), std::as_bytes(std::span(tokens))));
  PLUMB_CHECK(device_.upload(row_places().slots, std::as_bytes(std::span(slots))));
  PLUMB_CHECK(device_.upload(row_places().positions, std::as_bytes(std::span(positions))));
  if (has_lasts_) PLUMB_CHECK(device_.upload(row_places().lasts, std::as_bytes(std::span(lasts))));

  if (poisons) {
    for (const auto* memory : {&token_arena_, &output_arena_, &partials_}) {
      if (*memory) PLUMB_CHECK(fill_with_poison(device_, {memory->get(), 0, (*memory)->size()}));
    }
    for (const auto& memory : isolated_) PLUMB_CHECK(fill_with_poison(device_, {memory.get(), 0, memory->size()}));
  }
  if (!isolates()) return {};
  for (std::uint32_t i = 0; i < plan_.values.size(); ++i) device_.forget(value({i}));
  if (!guards_) return {};
  for (std::uint32_t i = 0; i < plan_.values.size(); ++i) {
    for (const View& zone : zones(value({i}))) PLUMB_CHECK(device_.upload(zone, guard));
  }
  return {};
}

Result<void> StepMemory::check_guards() {
  if (!guards_) return {};
  for (std::uint32_t i = 0; i < plan_.values.size(); ++i) {
    const auto around = zones(value({i}));
    for (const bool after : {false, true}) {
      std::array<std::byte, guard_bytes> found{};
      PLUMB_CHECK(device_.download(around[after ? 1 : 0], found));
      const auto at = std::mismatch(found.begin(), found.end(), guard.begin()).first;
      if (at == found.end()) continue;
      const auto byte = static_cast<std::uint64_t>(at - found.begin());
      return fail("a kernel wrote {} bytes {} value '{}', which no op of the step owns: this is a defect of Plumb",
                  after ? byte : guard_bytes - byte, after ? "past the end of" : "before", plan_.values[i].name);
    }
  }
  return {};
}

View StepMemory::value(plan::ValueId id) const {
  const plan::Value& value = plan_.value(id);
  const std::uint64_t n_rows = batch_.n_rows(value.rows);
  const std::uint64_t bytes = n_rows * value.width * sizeof(float);
  if (isolates()) return {isolated_[id.index].get(), guards_ ? guard_bytes : 0, bytes};
  const Place& place = layout_.places[id.index];
  const auto& arena = place.arena == plan::Rows::tokens ? token_arena_ : output_arena_;
  return {arena.get(), place.offset * n_rows, bytes};
}

}  // namespace plumb::backends::gpu
