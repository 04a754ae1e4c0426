#include "backends/cpu/stages.h"

#include <algorithm>

namespace plumb::backends::cpu {

namespace {

// A weight is cut into this many items for each thread, so that threads end together. An item has at least
// least_item_bytes, since each begins with a wait for memory that was not prefetched.
constexpr std::size_t items_a_thread = 8;
constexpr std::size_t least_item_bytes = std::size_t{64} << 10;

std::uint64_t row_bytes(const plan::Weight& weight) { return quants::info(weight.tensor.format).row_bytes(weight.in()); }

// The rows of the weight in one item, for a product with that many rows of x.
std::uint64_t rows_of_item(const Workspace& w, const plan::Weight& weight, std::uint32_t n_rows_of_x) {
  if (n_rows_of_x >= std::min<std::size_t>(w.kernels.packs_from, 8)) return w.kernels.row_tile;
  const std::uint64_t wanted =
      std::max<std::uint64_t>(weight.out() / (items_a_thread * w.n_threads), least_item_bytes / row_bytes(weight));
  return std::max<std::uint64_t>(wanted / 16 * 16, 16);
}

std::uint32_t n_items(const Workspace& w, const plan::Weight& weight, std::uint32_t n_rows_of_x) {
  const std::uint64_t rows = rows_of_item(w, weight, n_rows_of_x);
  return static_cast<std::uint32_t>((weight.out() + rows - 1) / rows);
}

// The operands of a product: rows of x, the weight whose first row is at `weights`, and rows of y for the result.
struct Operands {
  const std::byte* weights;
  const float* bias;   // or null
  const std::byte* x;  // in the form that the weight's format multiplies
  std::uint32_t n_rows;
  float* y;
  std::uint64_t y_stride;
};

// The item-th part of the weight's rows.
void multiply(const Workspace& w, const plan::Weight& weight, quants::Format format, const Operands& of, std::uint32_t item,
              std::uint32_t thread) {
  const std::uint64_t rows = rows_of_item(w, weight, of.n_rows);
  Dot dot;
  dot.weights = reinterpret_cast<const std::uint8_t*>(of.weights);
  dot.row_bytes = row_bytes(weight);
  dot.n_in = weight.in();
  dot.x = of.x;
  dot.x_stride = operand_bytes(operand(format), weight.in(), w.planes);
  dot.n_tokens = of.n_rows;
  dot.y = of.y;
  dot.y_stride = of.y_stride;
  dot.row_begin = item * rows;
  dot.row_end = std::min(dot.row_begin + rows, weight.out());
  dot.scratch = reinterpret_cast<std::uint8_t*>(w.scratch[thread].get());
  w.kernels.rounded[w.planes - 1].dot[quants::index(format)](dot);
  if (of.bias == nullptr) return;
  for (std::size_t t = 0; t < dot.n_tokens; ++t) {
    float* y = dot.y + t * dot.y_stride + dot.row_begin;
    w.kernels.add(y, of.bias + dot.row_begin, dot.row_end - dot.row_begin, y);
  }
}

std::uint32_t n_items(const Workspace& w, const LinearStage::Part& part) {
  const auto& op = w.op<plan::Linear>(part.op);
  return n_items(w, w.plan.weight(op.weight), w.n_rows(op.out));
}

}  // namespace

std::uint32_t begin_stage(const Workspace& w, const LinearStage& stage) {
  std::uint32_t n = 0;
  for (const LinearStage::Part& part : stage.parts) n += n_items(w, part);
  return n;
}

void run_item(const Workspace& w, const LinearStage& stage, std::uint32_t item, std::uint32_t thread) {
  auto part = stage.parts.begin();
  for (std::uint32_t n = n_items(w, *part); item >= n; n = n_items(w, *part)) {
    item -= n;
    ++part;
  }
  const auto& op = w.op<plan::Linear>(part->op);
  const plan::Weight& weight = w.plan.weight(op.weight);
  const std::uint32_t n_rows = w.n_rows(op.out);
  multiply(w, weight, part->format,
           {.weights = weight.tensor.data.data(),
            .bias = op.bias ? w.vector(*op.bias).data() : nullptr,
            .x = w.buffer(part->buffer),
            .n_rows = n_rows,
            .y = w.value(op.out),
            .y_stride = w.width(op.out)},
           item, thread);
}

std::uint32_t begin_stage(const Workspace& w, const ExpertStage& stage) {
  const auto& op = w.op<plan::ExpertLinear>(stage.part.op);
  return w.n_rows(op.out) * static_cast<std::uint32_t>(w.width(op.experts)) * n_items(w, w.plan.weight(op.weight), 1);
}

void run_item(const Workspace& w, const ExpertStage& stage, std::uint32_t item, std::uint32_t thread) {
  const auto& op = w.op<plan::ExpertLinear>(stage.part.op);
  const plan::Weight& weight = w.plan.weight(op.weight);
  const std::uint32_t n = n_items(w, weight, 1);
  const auto k = static_cast<std::uint32_t>(w.width(op.experts));
  const std::uint32_t row = item / n / k, slot = item / n % k;
  const auto expert = static_cast<std::uint64_t>(w.row(op.experts, row)[slot]);
  const std::uint64_t n_parts = w.width(op.x) / weight.in();
  const std::uint64_t part = n_parts > 1 ? slot : 0;
  const std::size_t operand_at = (row * n_parts + part) * operand_bytes(operand(stage.part.format), weight.in(), w.planes);
  multiply(w, weight, stage.part.format,
           {.weights = weight.tensor.data.data() + expert * weight.out() * row_bytes(weight),
            .bias = op.bias ? w.vector(*op.bias).data() + expert * weight.out() : nullptr,
            .x = w.buffer(stage.part.buffer) + operand_at,
            .n_rows = 1,
            .y = w.row(op.out, row) + slot * weight.out(),
            .y_stride = weight.out()},
           item % n, thread);
}

void run_row(const Workspace& w, const MakeOperand& op, std::uint32_t row) {
  const std::uint32_t n_rows = w.batch.n_rows(op.rows);
  const float* x = w.row(op.x, row + w.n_rows(op.x) - n_rows);
  if (op.kind == Operand::f32) {
    const std::uint64_t width = w.width(op.x);
    auto* all = reinterpret_cast<float*>(w.buffer(op.buffer));
    if (op.alone) w.kernels.put_floats(x, width, 0, 1, all + row * width);
    if (!op.alone) w.kernels.put_floats(x, width, row, n_rows, all);
    return;
  }
  const Sign sign = !op.alone && n_rows >= w.kernels.packs_from ? Sign::biased : Sign::plain;
  const std::uint64_t part = w.width(op.x) / op.n_parts;
  const std::size_t bytes = operand_bytes(op.kind, part, w.planes);
  const KernelTable::Rounded& kernels = w.kernels.rounded[w.planes - 1];
  std::byte* out = w.buffer(op.buffer) + std::size_t{row} * op.n_parts * bytes;
  for (std::uint32_t i = 0; i < op.n_parts; ++i) {
    (op.kind == Operand::x128 ? kernels.round_128 : kernels.round_256)(x + i * part, part, out + i * bytes, sign);
  }
}

}  // namespace plumb::backends::cpu
