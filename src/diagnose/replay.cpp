#include "diagnose/replay.h"

#include <algorithm>
#include <numeric>
#include <tuple>
#include <utility>

#include "diagnose/numbers.h"

namespace plumb::diagnose {

namespace {

// The most bytes of the suspect's values that are kept decoded.
constexpr std::uint64_t kept_bytes = std::uint64_t{256} << 20;

}  // namespace

Site::Site(Replay& in, std::size_t of_op, std::vector<std::uint32_t> of_rows)
    : replay(in), op_index(of_op), op(in.plan_.ops[of_op]), rows(std::move(of_rows)) {
  bool is_whole = rows.size() == in.rows_.size();  // the run's rows, in its order
  for (const std::uint32_t row : rows) {
    is_whole = is_whole && row == rows_of_run_.size();
    rows_of_run_.push_back(in.rows_[row]);
  }
  scene.plan = &in.plan_;
  scene.rows = rows_of_run_;
  scene.n_outputs = rows.size();
  scene.n_threads = in.n_threads_;
  scene.capacity = in.capacity_;
  scene.value = [this, is_whole](plan::ValueId id) -> std::span<const float> {
    Values& held = held_[id.index];
    if (!held) {
      held = replay.value(id);
      if (!is_whole) {
        held = std::make_shared<const std::vector<float>>(gather(*held, scene.plan->value(id).width, rows));
      }
    }
    return *held;
  };
  scene.weight = [&in](plan::WeightId id) { return backends::reference::rows_of(in.plan_.weight(id).tensor); };
  scene.cached = [this](std::uint64_t row) { return replay.cached_[rows[row]]; };
  const auto* attention = std::get_if<plan::Attention>(&op);
  if (attention == nullptr) return;
  // Keys and values are computed beforehand, since several threads will read them.
  const plan::KvWrite& write = in.kv_write(attention->layer);
  keys_ = in.value(write.k);
  values_ = in.value(write.v);
  const auto of = [](const Values& all, std::size_t width) {
    return [data = all->data(), width](std::uint32_t, std::uint64_t, std::uint32_t s) { return data + s * width; };
  };
  scene.key = of(keys_, in.plan_.value(write.k).width);
  scene.cached_value = of(values_, in.plan_.value(write.v).width);
}

std::vector<float> Site::compute(const plan::Op& other, const Scene& from) const {
  if (const auto* linear = std::get_if<plan::Linear>(&other)) return product(*linear, from, column_stride);
  return backends::reference::compute(other, from);
}

std::vector<float> Site::value_on(plan::ValueId id, const OtherRow& other) const {
  const std::size_t width = replay.plan().value(id).width;
  const Values all = replay.value(id);
  std::vector<float> out(rows.size() * width, 0.0f);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const std::int64_t from = other(rows[i]);
    if (from >= 0 && from < std::ssize(replay.rows())) copy_row(*all, static_cast<std::size_t>(from), out, i, width);
  }
  return out;
}

std::vector<float> Site::compute_on(const OtherRow& other) const {
  std::map<std::uint32_t, std::size_t> wanted;  // each row once, in order, and its place among them
  for (const std::uint32_t row : rows) {
    if (const std::int64_t from = other(row); from >= 0 && from < std::ssize(replay.rows()))
      wanted.emplace(static_cast<std::uint32_t>(from), 0);
  }
  const std::size_t width = scene.plan->value(*plan::output(op)).width;
  std::vector<float> y(rows.size() * width, 0.0f);
  if (wanted.empty()) return y;
  std::vector<std::uint32_t> others;
  for (auto& [row, place] : wanted) {
    place = others.size();
    others.push_back(row);
  }
  const std::vector<float> right = Site(replay, op_index, others).compute();
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto from = wanted.find(static_cast<std::uint32_t>(other(rows[i])));
    if (from != wanted.end()) copy_row(right, from->second, y, i, width);
  }
  return y;
}

StepRows Site::step(std::size_t i) const { return replay.step_of(rows[i]); }

Replay::Replay(const model::Model& model, std::span<const backends::Row> rows, const Suspect* suspect,
               std::vector<std::uint32_t> logit_rows, std::uint32_t n_threads, std::uint32_t capacity)
    : model_(model),
      plan_(*model.plan()),
      rows_(rows),
      suspect_(suspect),
      logit_rows_(std::move(logit_rows)),
      n_threads_(n_threads),
      capacity_(capacity > 0 ? capacity : static_cast<std::uint32_t>(rows.size())),
      producers_(plan_.values.size()),
      kv_writes_(plan_.cache.n_layers(), nullptr),
      computed_(plan_.values.size()) {
  for (std::size_t i = 0; i < plan_.ops.size(); ++i) {
    if (const auto out = plan::output(plan_.ops[i])) producers_[out->index] = i;
    if (const auto* write = std::get_if<plan::KvWrite>(&plan_.ops[i])) kv_writes_[write->layer] = write;
  }
  busy_.resize(plan_.ops.size());
  for (const backends::Row& row : rows) {
    if (row.sequence >= step_rows_.size()) step_rows_.resize(row.sequence + std::size_t{1}, 0);
    ++step_rows_[row.sequence];
  }
  cached_.resize(rows.size());
  for (std::size_t i = rows.size(); i-- > 0;) {
    const bool last = i + 1 == rows.size() || rows[i + 1].sequence != rows[i].sequence;
    cached_[i] = last ? static_cast<std::uint32_t>(i + 1) : cached_[i + 1];
  }
}

std::vector<plan::ValueId> Replay::reads(const plan::Op& op) const {
  std::vector<plan::ValueId> ids = plan::inputs(op);
  if (const auto* attention = std::get_if<plan::Attention>(&op)) {
    const plan::KvWrite& write = kv_write(attention->layer);
    ids.push_back(write.k);
    ids.push_back(write.v);
  }
  return ids;
}

std::vector<std::size_t> Replay::region(std::size_t op, std::span<const std::uint32_t> steps) const {
  using Part = std::tuple<std::size_t, std::uint32_t, std::uint32_t>;  // an op, a step, and a number of its last rows
  std::set<std::size_t> ops{op};
  std::set<Part> seen;
  std::vector<Part> open;
  const auto rows_in = [&](std::uint32_t step) { return step < step_rows_.size() ? step_rows_[step] : 0; };
  const auto add = [&](std::size_t producer, std::uint32_t step, std::uint32_t n_rows) {
    ops.insert(producer);
    if (seen.emplace(producer, step, n_rows).second) open.emplace_back(producer, step, n_rows);
  };
  const auto follow = [&](plan::ValueId id, std::uint32_t step, std::uint32_t n_rows) {
    if (suspect_ == nullptr || suspect_->known_rows(id, step) < n_rows) add(producer(id), step, n_rows);
  };
  const auto out = plan::output(plan_.ops[op]);
  for (const std::uint32_t step : steps) {
    const std::uint32_t known = suspect_ != nullptr && out ? suspect_->known_rows(*out, step) : 0;
    add(op, step, known > 0 ? known : rows_in(step));
  }
  while (!open.empty()) {
    const auto [next, step, n_rows] = open.back();
    open.pop_back();
    for (const plan::ValueId id : plan::inputs(plan_.ops[next])) follow(id, step, n_rows);
    if (const auto* attention = std::get_if<plan::Attention>(&plan_.ops[next])) {
      const plan::KvWrite& write = kv_write(attention->layer);
      for (const plan::ValueId id : {write.k, write.v}) {
        if (is_shown(id)) continue;
        for (std::uint32_t before = 0; before <= step; ++before) follow(id, before, rows_in(before));
      }
    }
  }
  return {ops.begin(), ops.end()};
}

Values Replay::merged(plan::ValueId id, std::vector<float> computed) const {
  if (suspect_ != nullptr && suspect_->knows(id)) {
    const auto observed = suspect_->observe(id);
    const std::size_t width = plan_.value(id).width;
    for (std::size_t row = 0; row < rows_.size(); ++row) {
      if (observed->has[row] != 0) copy_row(observed->data, row, computed, row, width);
    }
  }
  return std::make_shared<const std::vector<float>>(std::move(computed));
}

std::set<std::size_t> Replay::makers(plan::ValueId id, const std::function<bool(plan::ValueId)>& has) const {
  std::set<std::size_t> ops;
  std::vector<plan::ValueId> open{id};
  while (!open.empty()) {
    const plan::ValueId next = open.back();
    open.pop_back();
    if (has(next) || is_shown(next) || !ops.insert(producer(next)).second) continue;
    for (const plan::ValueId input : reads(plan_.ops[producer(next)])) open.push_back(input);
  }
  return ops;
}

// Computes a value and all values that it depends on, unless the suspect has them or they are computed already.
void Replay::require(plan::ValueId id) {
  for (const std::size_t op : makers(id, [&](plan::ValueId v) { return is_computed(v); })) {
    const plan::ValueId out = *plan::output(plan_.ops[op]);
    std::vector<float> y = compute(op);
    computed_[out.index] = merged(out, scatter(std::move(y), plan_.value(out).width, rows_of(op), rows_.size()));
    if (std::find(busy_.begin(), busy_.end(), true) != busy_.end()) made_while_busy_.push_back(out.index);
  }
}

Values Replay::value(plan::ValueId id) {
  if (is_computed(id)) return computed_[id.index];
  if (is_shown(id)) {
    Values& seen = seen_[id.index];
    if (seen) return seen;
    Values result = std::make_shared<const std::vector<float>>(suspect_->observe(id)->data);
    if (seen_bytes_ > kept_bytes) {
      seen_.clear();
      seen_bytes_ = 0;
    }
    seen_bytes_ += result->size() * sizeof(float);
    return seen_[id.index] = result;
  }
  require(id);
  return computed_[id.index];
}

Values Replay::flat(const gguf::Tensor& tensor) {
  if (flat_of_ != tensor.data.data()) {
    const std::size_t n = tensor.dims[0];
    auto values = std::make_shared<std::vector<float>>(tensor.n_elements());
    const RowSource rows = backends::reference::rows_of(tensor);
    for (std::uint64_t r = 0; r < tensor.n_rows(); ++r) rows(r, std::span(*values).subspan(r * n, n));
    flat_ = std::move(values);
    flat_of_ = tensor.data.data();
  }
  return flat_;
}

void Replay::commit(Commit mistake) {
  for (std::size_t op = mistake.op; op < plan_.ops.size(); ++op) {
    if (const auto out = plan::output(plan_.ops[op])) computed_[out->index] = nullptr;
  }
  variances_.clear();
  commits_.push_back(std::move(mistake));
}

std::vector<std::uint32_t> Replay::all_rows() const {
  std::vector<std::uint32_t> rows(rows_.size());
  std::iota(rows.begin(), rows.end(), 0u);
  return rows;
}

std::vector<std::uint32_t> Replay::rows_of(std::size_t op) const {
  return plan::output(plan_.ops[op]) == plan_.logits ? logit_rows_ : all_rows();
}

std::vector<float> Replay::compute(std::size_t index) {
  const plan::Op& op = plan_.ops[index];
  for (const plan::ValueId id : reads(op)) (void)value(id);
  const Site site(*this, index, rows_of(index));
  std::vector<float> y;
  const std::size_t width = plan_.value(*plan::output(op)).width;
  // A mistake may read values that depend on its own op, such as an old value. These are computed without the mistake.
  const bool committed = !busy_[index];
  const bool whole = committed && std::any_of(commits_.begin(), commits_.end(), [&](const Commit& commit) {
                       return commit.op == index && commit.rows.empty();
                     });
  if (!whole) y = site.compute();
  for (const Commit& commit : commits_) {
    if (commit.op != index || !committed) continue;
    busy_[index] = true;
    std::vector<float> wrong = commit.mistake(site);
    busy_[index] = false;
    for (const std::uint32_t id : made_while_busy_) computed_[id] = nullptr;
    made_while_busy_.clear();
    if (commit.rows.empty()) {
      y = std::move(wrong);
      continue;
    }
    for (std::size_t i = 0; i < site.rows.size(); ++i) {
      if (commit.rows[site.rows[i]]) copy_row(wrong, i, y, i, width);
    }
  }
  return y;
}

InputError Replay::error(plan::ValueId id, const Arithmetic& arithmetic) {
  if (is_shown(id)) {
    const trace::Dtype dtype = suspect_->dtype(id);
    return {.variance = {}, .rounding = rounding_of(dtype), .least = least_of(dtype)};
  }
  return {.variance = variance_of(id, arithmetic)};
}

const std::vector<float>& Replay::variance_of(plan::ValueId id, const Arithmetic& arithmetic) {
  const auto has = [&](plan::ValueId v) { return variances_.contains({v.index, &arithmetic}); };
  for (const std::size_t op : makers(id, has)) {
    const plan::ValueId out = *plan::output(plan_.ops[op]);
    ProductSums sums;
    const bool is_product = std::holds_alternative<plan::Linear>(plan_.ops[op]);
    std::vector<float> v = variance(op, is_product ? product(op, arithmetic, sums) : *value(out), sums, arithmetic);
    if (suspect_ != nullptr && suspect_->knows(out)) {
      const auto observed = suspect_->observe(out);
      const InputError rounding{
          .variance = {}, .rounding = rounding_of(observed->dtype), .least = least_of(observed->dtype)};
      const std::size_t width = plan_.value(out).width;
      for (std::size_t i = 0; i < v.size(); ++i) {
        if (observed->has[i / width] != 0) v[i] = static_cast<float>(rounding.at(i, observed->data[i]));
      }
    }
    variances_[{out.index, &arithmetic}] = std::move(v);
  }
  return variances_[{id.index, &arithmetic}];
}

std::vector<float> Replay::product(std::size_t index, const Arithmetic& arithmetic, ProductSums& sums) {
  const auto& op = std::get<plan::Linear>(plan_.ops[index]);
  const Site site(*this, index, rows_of(index));
  std::vector<float> of_x;
  if (!is_shown(op.x)) {
    of_x = gather(variance_of(op.x, arithmetic), plan_.value(op.x).width, site.rows);
  }
  return diagnose::product(op, site.scene, of_x, sums);
}

std::vector<float> Replay::variance(std::size_t index, std::span<const float> y, const ProductSums& sums,
                                    const Arithmetic& arithmetic) {
  const Site site(*this, index, rows_of(index));
  return diagnose::variance(site.op, site.scene, y,
                            {.of = [&](plan::ValueId id) { return error(id, arithmetic); },
                             .of_cache =
                                 [&](std::uint32_t layer) {
                                   const plan::KvWrite& write = kv_write(layer);
                                   return std::pair(error(write.k, arithmetic), error(write.v, arithmetic));
                                 }},
                            sums, arithmetic);
}

}  // namespace plumb::diagnose
