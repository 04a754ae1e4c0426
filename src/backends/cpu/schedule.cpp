#include "backends/cpu/schedule.h"

#include <algorithm>
#include <optional>

#include "backends/arena.h"

namespace plumb::backends::cpu {

namespace {

using plan::Plan;
using plan::Rows;
using plan::ValueId;

constexpr std::size_t alignment = 64;
std::size_t aligned(std::size_t n) { return (n + alignment - 1) / alignment * alignment; }

struct Lifetime {
  std::uint32_t begin = 0, end = 0;  // stages, both included
  std::size_t bytes = 0;             // a row
  Rows arena = Rows::tokens;
  Place* place = nullptr;
};

void place_all(std::vector<Lifetime>& lifetimes, std::uint32_t n_stages, Schedule& schedule) {
  std::stable_sort(lifetimes.begin(), lifetimes.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
  Arena tokens;
  Arena outputs;
  const auto arena = [&](Rows rows) -> Arena& { return rows == Rows::tokens ? tokens : outputs; };
  std::vector<std::vector<const Lifetime*>> ending(n_stages);
  std::size_t next = 0;
  for (std::uint32_t stage = 0; stage < n_stages; ++stage) {
    for (; next < lifetimes.size() && lifetimes[next].begin == stage; ++next) {
      Lifetime& life = lifetimes[next];
      *life.place = Place{life.arena, arena(life.arena).take(aligned(life.bytes))};
      ending[life.end].push_back(&life);
    }
    for (const Lifetime* life : ending[stage]) arena(life->arena).release(life->place->offset);
  }
  schedule.token_bytes = tokens.peak();
  schedule.output_bytes = outputs.peak();
}

class Planner {
 public:
  Planner(const Plan& plan, const std::vector<std::vector<float>>& vectors, int planes)
      : plan_(plan), vectors_(vectors), planes_(planes) {}

  Result<Schedule> make() {
    schedule_.angles_of.resize(plan_.ops.size());
    schedule_.stage_of.resize(plan_.ops.size());
    made_in_.resize(plan_.values.size());
    used_in_.resize(plan_.values.size());
    for (op_ = 0; op_ < plan_.ops.size(); ++op_) {
      PLUMB_CHECK(std::visit([&](const auto& op) { return add(op); }, plan_.ops[op_]));
      schedule_.stage_of[op_] = last_stage();
      for (const ValueId id : plan::inputs(plan_.ops[op_])) used_in_[id.index] = last_stage();
      if (const auto id = plan::output(plan_.ops[op_])) {
        // Attention may write its result before the stage that merges it.
        const bool merged = std::holds_alternative<plan::Attention>(plan_.ops[op_]);
        made_in_[id->index] = last_stage() - (merged ? 1 : 0);
        used_in_[id->index] = last_stage();
      }
    }
    used_in_[plan_.logits.index] = last_stage();
    schedule_.values.resize(plan_.values.size());
    schedule_.buffers.resize(buffers_.size());
    std::vector<Lifetime> lifetimes;
    for (std::size_t i = 0; i < plan_.values.size(); ++i) {
      const plan::Value& value = plan_.values[i];
      lifetimes.push_back({made_in_[i], used_in_[i], value.width * sizeof(float), value.rows, &schedule_.values[i]});
    }
    for (std::size_t i = 0; i < buffers_.size(); ++i) {
      const Buffer& buffer = buffers_[i];
      const std::size_t bytes =
          buffer.n_parts * operand_bytes(buffer.kind, plan_.value(buffer.x).width / buffer.n_parts, planes_);
      lifetimes.push_back({buffer.made_in, buffer.used_in, bytes, buffer.rows, &schedule_.buffers[i]});
    }
    place_all(lifetimes, static_cast<std::uint32_t>(schedule_.stages.size()), schedule_);
    return std::move(schedule_);
  }

 private:
  struct Buffer {
    ValueId x;
    Operand kind;
    Rows rows;
    std::uint32_t made_in, used_in;
    std::uint32_t n_parts = 1;
    bool alone = false;
  };

  [[nodiscard]] std::uint32_t last_stage() const { return static_cast<std::uint32_t>(schedule_.stages.size()) - 1; }

  // Appends to the open stage if that is one of rows of this kind.
  Result<void> add_row_op(const RowOp& op, Rows rows) {
    auto* stage = schedule_.stages.empty() ? nullptr : std::get_if<RowStage>(&schedule_.stages.back());
    if (stage == nullptr || stage->rows != rows) {
      stage = &std::get<RowStage>(schedule_.stages.emplace_back(RowStage{{}, rows}));
    }
    stage->ops.push_back(op);
    return {};
  }
  Result<void> add_row_op(ValueId out) { return add_row_op(PlanOp{op_}, plan_.value(out).rows); }

  Result<void> add(const plan::Embed& op) { return add_row_op(op.out); }
  Result<void> add(const plan::Norm& op) { return add_row_op(op.out); }
  Result<void> add(const plan::Activate& op) { return add_row_op(op.out); }
  Result<void> add(const plan::Add& op) { return add_row_op(op.out); }
  Result<void> add(const plan::SoftCap& op) { return add_row_op(op.out); }
  Result<void> add(const plan::TopK& op) { return add_row_op(op.out); }
  Result<void> add(const plan::ExpertWeights& op) { return add_row_op(op.out); }
  Result<void> add(const plan::ExpertSum& op) { return add_row_op(op.out); }
  Result<void> add(const plan::KvWrite&) { return add_row_op(PlanOp{op_}, Rows::tokens); }

  Result<void> add(const plan::Rope& op) {
    const std::vector<float>* factors = op.factors ? &vectors_[op.factors->index] : nullptr;  // decoded by the executor
    if (factors != nullptr && factors->size() < op.n_rot / 2) {
      return fail("tensor '{}' has {} rotary factors; {} are needed", plan_.weight(*op.factors).tensor.name,
                  factors->size(), op.n_rot / 2);
    }
    const Angles angles = angles_for(op, factors);
    const auto same = [&](const Angles& other) {
      return other.frequency == angles.frequency && other.magnitude == angles.magnitude;
    };
    const auto found = std::find_if(schedule_.angles.begin(), schedule_.angles.end(), same);
    schedule_.angles_of[op_] = static_cast<std::uint32_t>(found - schedule_.angles.begin());
    if (found == schedule_.angles.end()) {
      PLUMB_CHECK(add_row_op(Turn{schedule_.angles_of[op_]}, Rows::tokens));
      schedule_.angles.push_back(angles);
    }
    return add_row_op(op.out);
  }

  Result<void> expect_bytes(const gguf::Tensor& tensor) {
    const std::uint64_t bytes = quants::info(tensor.format).row_bytes(tensor.dims[0]) * tensor.n_rows();
    if (tensor.data.size() >= bytes) return {};
    return fail("tensor '{}' has {} bytes; its shape needs {}", tensor.name, tensor.data.size(), bytes);
  }

  // Each expert's operand is rounded for itself, as it is multiplied alone.
  Result<void> add(const plan::ExpertLinear& op) {
    const plan::Weight& weight = plan_.weight(op.weight);
    PLUMB_CHECK(expect_bytes(weight.tensor));
    LinearStage::Part part{op_, 0, weight_format(weight.tensor.format)};
    if (const Operand kind = operand(part.format); kind != Operand::f32) {
      const auto n_parts = static_cast<std::uint32_t>(plan_.value(op.x).width / weight.in());
      const Rows rows = plan_.value(op.x).rows;
      const auto found = std::find_if(buffers_.begin(), buffers_.end(), [&](const Buffer& buffer) {
        return buffer.alone && buffer.x == op.x && buffer.kind == kind && buffer.n_parts == n_parts;
      });
      part.buffer = static_cast<std::uint32_t>(found - buffers_.begin());
      if (found == buffers_.end()) {
        PLUMB_CHECK(add_row_op(Quantize{op.x, kind, part.buffer, rows, n_parts, true}, rows));
        used_in_[op.x.index] = last_stage();
        buffers_.push_back({op.x, kind, rows, last_stage(), last_stage(), n_parts, true});
      }
    }
    schedule_.stages.emplace_back(ExpertStage{part});
    if (operand(part.format) != Operand::f32) buffers_[part.buffer].used_in = last_stage();
    return {};
  }

  Result<void> add(const plan::Linear& op) {
    const plan::Weight& weight = plan_.weight(op.weight);
    const WeightFormat format = weight_format(weight.tensor.format);
    PLUMB_CHECK(expect_bytes(weight.tensor));
    LinearStage::Part part{op_, 0, format};
    if (const Operand kind = operand(format); kind != Operand::f32) {
      PLUMB_CHECK(add_quantize(op, kind, part.buffer));
    }
    auto* stage = std::get_if<LinearStage>(&schedule_.stages.back());
    if (stage == nullptr || made_in_[op.x.index] == last_stage()) {
      stage = &std::get<LinearStage>(schedule_.stages.emplace_back(LinearStage{}));
    }
    stage->parts.push_back(part);
    if (operand(format) != Operand::f32) buffers_[part.buffer].used_in = last_stage();
    return {};
  }

  Result<void> add_quantize(const plan::Linear& op, Operand kind, std::uint32_t& buffer) {
    const Rows rows = plan_.value(op.out).rows;
    for (std::size_t i = buffers_.size(); i-- > 0;) {
      if (buffers_[i].x == op.x && buffers_[i].kind == kind && buffers_[i].rows == rows && !buffers_[i].alone) {
        buffer = static_cast<std::uint32_t>(i);
        return {};
      }
    }
    buffer = static_cast<std::uint32_t>(buffers_.size());
    const Quantize quantize{op.x, kind, buffer, rows};
    // Linears of one input and several formats share a stage if the rounding goes in front of it.
    if (last_stage() > 0 && std::holds_alternative<LinearStage>(schedule_.stages.back()) &&
        made_in_[op.x.index] < last_stage()) {
      auto* before = std::get_if<RowStage>(&schedule_.stages[last_stage() - 1]);
      if (before != nullptr && before->rows == rows) {
        before->ops.emplace_back(quantize);
        buffers_.push_back({op.x, kind, rows, last_stage() - 1, last_stage()});
        return {};
      }
    }
    PLUMB_CHECK(add_row_op(quantize, rows));
    used_in_[op.x.index] = last_stage();
    buffers_.push_back({op.x, kind, rows, last_stage(), last_stage()});
    return {};
  }

  Result<void> add(const plan::Attention& op) {
    if (op.n_heads == 0 || op.n_kv_heads == 0 || op.n_kv_heads > op.n_heads || op.n_kv_heads != plan_.cache.n_kv_heads ||
        op.head_dim != plan_.cache.head_dim || op.layer >= plan_.cache.n_layers) {
      return fail("the attention of layer {} does not fit the plan's KV cache", op.layer);
    }
    schedule_.stages.emplace_back(AttentionStage{op_});
    return add_row_op(Merge{op_}, Rows::tokens);
  }

  const Plan& plan_;
  const std::vector<std::vector<float>>& vectors_;
  int planes_;
  Schedule schedule_;
  std::uint32_t op_ = 0;
  std::vector<std::uint32_t> made_in_, used_in_;  // stages, by ValueId
  std::vector<Buffer> buffers_;
};

}  // namespace

std::size_t operand_bytes(Operand kind, std::uint64_t n, int planes) {
  switch (kind) {
    case Operand::f32:
      return n * sizeof(float);
    case Operand::x128:
      return (n + 127) / 128 * (planes == 1 ? sizeof(X128<1>) : sizeof(X128<2>));
    case Operand::x256:
      return n / 256 * (planes == 1 ? sizeof(X256<1>) : sizeof(X256<2>));
  }
  return 0;
}

Result<Schedule> make_schedule(const plan::Plan& plan, const std::vector<std::vector<float>>& vectors, int planes) {
  return Planner(plan, vectors, planes).make();
}

}  // namespace plumb::backends::cpu
