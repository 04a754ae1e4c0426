#include "backends/cpu/schedule.h"

#include <algorithm>
#include <utility>

namespace plumb::backends::cpu {

namespace {

using plan::Plan;
using plan::Rows;
using plan::ValueId;

constexpr std::size_t alignment = 64;

class Planner {
 public:
  Planner(const Plan& plan, Rotations rotations, int planes)
      : plan_(plan), planes_(planes), made_in_(plan.values.size()), used_in_(plan.values.size()) {
    schedule_.rotations = std::move(rotations);
    schedule_.stage_of.resize(plan.ops.size());
  }

  Schedule make() {
    for (op_ = 0; op_ < plan_.ops.size(); ++op_) {
      const plan::Op& op = plan_.ops[op_];
      std::visit([&](const auto& o) { add(o); }, op);
      schedule_.stage_of[op_] = last_stage();
      for (const ValueId id : plan::inputs(op)) used_in_[id.index] = last_stage();
      if (const auto id = plan::output(op)) {
        // Attention may write its result in the stage before the one that merges it.
        made_in_[id->index] = last_stage() - (std::holds_alternative<plan::Attention>(op) ? 1 : 0);
        used_in_[id->index] = last_stage();
      }
    }
    used_in_[plan_.logits.index] = last_stage();
    std::vector<Lifetime> lifetimes;
    for (std::size_t i = 0; i < plan_.values.size(); ++i) {
      const plan::Value& value = plan_.values[i];
      lifetimes.push_back({made_in_[i], used_in_[i], value.rows, value.width * sizeof(float)});
    }
    for (const Buffer& buffer : buffers_) {
      const MakeOperand& of = buffer.filled_by;
      const std::size_t bytes = of.n_parts * operand_bytes(of.kind, plan_.value(of.x).width / of.n_parts, planes_);
      lifetimes.push_back({buffer.made_in, buffer.used_in, of.rows, bytes});
    }
    schedule_.layout = lay_out(lifetimes, alignment);
    return std::move(schedule_);
  }

 private:
  struct Buffer {
    MakeOperand filled_by;
    std::uint32_t made_in, used_in;
  };

  [[nodiscard]] std::uint32_t last_stage() const { return static_cast<std::uint32_t>(schedule_.stages.size()) - 1; }

  // Appends to the last stage if it works on rows of this kind, else begins a new one.
  void add_row_op(const RowOp& op, Rows rows) {
    auto* stage = schedule_.stages.empty() ? nullptr : std::get_if<RowStage>(&schedule_.stages.back());
    if (stage == nullptr || stage->rows != rows) {
      stage = &std::get<RowStage>(schedule_.stages.emplace_back(RowStage{{}, rows}));
    }
    stage->ops.push_back(op);
  }

  // Ops that have no stage of their own run row by row (row_ops.cpp).
  template <class Op>
  void add(const Op& op) {
    add_row_op(PlanOp{op_}, plan_.value(op.out).rows);
  }
  void add(const plan::KvWrite&) { add_row_op(PlanOp{op_}, Rows::tokens); }

  void add(const plan::Rope&) {
    const std::uint32_t angles = schedule_.rotations.of_op[op_];
    if (angles == n_turns_) add_row_op(Turn{n_turns_++}, Rows::tokens);
    add_row_op(PlanOp{op_}, Rows::tokens);
  }

  void add(const plan::Attention&) {
    schedule_.stages.emplace_back(AttentionStage{op_});
    add_row_op(Merge{op_}, Rows::tokens);
  }

  void add(const plan::Linear& op) {
    LinearStage::Part part{op_, 0, plan_.weight(op.weight).tensor.format};
    part.buffer = buffer_of({op.x, operand(part.format), 0, plan_.value(op.out).rows});
    auto* stage = std::get_if<LinearStage>(&schedule_.stages.back());
    if (stage == nullptr || made_in_[op.x.index] == last_stage()) {
      stage = &std::get<LinearStage>(schedule_.stages.emplace_back(LinearStage{}));
    }
    stage->parts.push_back(part);
    buffers_[part.buffer].used_in = last_stage();
  }

  // Experts' operands are multiplied one by one, so each is made separately.
  void add(const plan::ExpertLinear& op) {
    const plan::Weight& weight = plan_.weight(op.weight);
    LinearStage::Part part{op_, 0, weight.tensor.format};
    const auto n_parts = static_cast<std::uint32_t>(plan_.value(op.x).width / weight.in());
    part.buffer = buffer_of({op.x, operand(part.format), 0, plan_.value(op.x).rows, n_parts, true});
    schedule_.stages.emplace_back(ExpertStage{part});
    buffers_[part.buffer].used_in = last_stage();
  }

  // The buffer for this operand. If there is none yet, makes it and adds the op that fills it.
  std::uint32_t buffer_of(MakeOperand op) {
    const auto found = std::find_if(buffers_.begin(), buffers_.end(), [&](const Buffer& buffer) {
      const MakeOperand& other = buffer.filled_by;
      return other.x == op.x && other.kind == op.kind && other.rows == op.rows && other.n_parts == op.n_parts &&
             other.alone == op.alone;
    });
    op.buffer = static_cast<std::uint32_t>(found - buffers_.begin());
    if (found != buffers_.end()) return op.buffer;
    // Linears with one input but several formats share a stage, if the operand is made in a stage before it.
    if (!op.alone && last_stage() > 0 && std::holds_alternative<LinearStage>(schedule_.stages.back()) &&
        made_in_[op.x.index] < last_stage()) {
      auto* before = std::get_if<RowStage>(&schedule_.stages[last_stage() - 1]);
      if (before != nullptr && before->rows == op.rows) {
        before->ops.emplace_back(op);
        buffers_.push_back({op, last_stage() - 1, last_stage()});
        return op.buffer;
      }
    }
    add_row_op(op, op.rows);
    used_in_[op.x.index] = last_stage();
    buffers_.push_back({op, last_stage(), last_stage()});
    return op.buffer;
  }

  const Plan& plan_;
  int planes_;
  Schedule schedule_;
  std::uint32_t op_ = 0;
  std::uint32_t n_turns_ = 0;
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

Schedule make_schedule(const plan::Plan& plan, Rotations rotations, int planes) {
  return Planner(plan, std::move(rotations), planes).make();
}

}  // namespace plumb::backends::cpu
