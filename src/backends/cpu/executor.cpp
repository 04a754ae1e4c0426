// Runs the Schedule's stages over a pool of threads.
#include <algorithm>
#include <cstring>
#include <system_error>
#include <utility>

#include "backends/cpu/cpu.h"
#include "backends/cpu/pool.h"
#include "backends/cpu/stages.h"
#include "backends/cpu/workspace.h"
#include "base/machine.h"

namespace plumb::backends {

namespace cpu {

namespace {

constexpr std::uint32_t most_threads = 1024;

class CpuExecutor final : public PlanExecutor, private Program {
 public:
  CpuExecutor(std::shared_ptr<const plan::Plan> of, const LoadOptions& options, Isa isa)
      : PlanExecutor(std::move(of), options.max_batch),
        work_(plan(), batch(), kernels(isa), options.activations == Activations::int8 ? 1 : 2,
              options.n_threads == 0 ? usable_cores() : options.n_threads),
        pool_(work_.n_threads, usable_cores()) {}

  using PlanExecutor::run;

  [[nodiscard]] std::uint32_t n_threads() const override { return pool_.n_threads(); }

 private:
  Result<std::vector<std::unique_ptr<KvCache>>> make_caches(const CachePool& pool) override {
    return caches_of<Cache>(std::make_shared<CachePool>(pool));
  }
  Result<void> read_head(const KvCache& cache, const CachedHead& head, std::span<std::byte> rows) override {
    const auto& from = static_cast<const Cache&>(cache);
    const std::size_t n = row_bytes(from, head);
    for (std::size_t i = 0; i * n < rows.size(); ++i) std::memcpy(rows.data() + i * n, from.row(head, i), n);
    return {};
  }
  Result<void> fill_head(KvCache& cache, const CachedHead& head, std::span<const std::byte> rows) override {
    auto& to = static_cast<Cache&>(cache);
    const std::size_t n = row_bytes(to, head);
    PLUMB_CHECK(to.reserve(static_cast<std::uint32_t>(rows.size() / n), poisons_));
    for (std::size_t i = 0; i * n < rows.size(); ++i) {
      std::byte* const row = to.row(head, i);
      std::memcpy(row, rows.data() + i * n, n);
      std::memset(row + n, 0, to.row_bytes(head.layer) - n);
    }
    return {};
  }
  // Bytes of a head's row, without padding.
  [[nodiscard]] std::size_t row_bytes(const Cache& cache, const CachedHead& head) const {
    return plan().cache.layers[head.layer].head_dim * (cache.f16() ? sizeof(std::uint16_t) : sizeof(float));
  }

  Result<std::span<const float>> run_batch() override {
    for (std::uint32_t row = 0; row < batch().n_rows(); ++row) {
      PLUMB_CHECK(work_.cache(row).reserve(batch().position(row) + 1, poisons_));
    }
    PLUMB_CHECK(work_.reserve(poisons_));
    if (!observer_) {
      pool_.run(*this, 0, n_stages());
    } else {
      for (std::uint32_t stage = 0; stage < n_stages(); ++stage) {
        pool_.run(*this, stage, stage + 1);
        show_stage(stage);
      }
    }
    return data(plan().logits);
  }

  [[nodiscard]] std::uint32_t n_stages() const override { return static_cast<std::uint32_t>(work_.schedule.stages.size()); }
  std::uint32_t begin(std::uint32_t stage) override {
    return std::visit([&](const auto& s) { return begin_stage(work_, s); }, work_.schedule.stages[stage]);
  }
  void run(std::uint32_t stage, std::uint32_t item, std::uint32_t thread) override {
    std::visit([&](const auto& s) { run_item(work_, s, item, thread); }, work_.schedule.stages[stage]);
  }

  [[nodiscard]] std::span<const float> data(plan::ValueId id) const {
    return {work_.value(id), n_rows(id) * work_.width(id)};
  }
  void show_stage(std::uint32_t stage) const {
    for (std::size_t i = 0; i < plan().ops.size(); ++i) {
      if (work_.schedule.stage_of[i] != stage) continue;
      const plan::Op& op = plan().ops[i];
      const auto* attention = std::get_if<plan::Attention>(&op);
      if (attention != nullptr && wants_probs(*attention)) show_probs(*attention, attention_probs(work_, *attention));
      if (const auto out = plan::output(op); out && wants(*out)) show(*out, data(*out));
    }
  }

  Workspace work_;
  Pool pool_;  // last, since its threads use the members above
};

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(Isa isa) : isa_(isa) {}

  [[nodiscard]] std::string_view name() const override { return "cpu"; }
  [[nodiscard]] std::string description(std::uint32_t n_threads) const override {
    const std::uint32_t n = n_threads == 0 ? usable_cores() : n_threads;
    return fmt::format("{}, {} thread{}", kernels(isa_).name, n, n == 1 ? "" : "s");
  }
  [[nodiscard]] Result<std::unique_ptr<Executor>> load(std::shared_ptr<const plan::Plan> plan,
                                                       const LoadOptions& options) override {
    if (options.n_threads > most_threads) {
      return fail("{} threads are more than the {} that the cpu backend uses; ask for fewer", options.n_threads,
                  most_threads);
    }
    PLUMB_CHECK(check_tensors(*plan));
    try {
      return std::make_unique<CpuExecutor>(std::move(plan), options, isa_);
    } catch (const std::system_error& error) {
      return fail("cannot start {} threads ({}); ask for fewer", options.n_threads, error.what());
    }
  }

 private:
  Isa isa_;
};

}  // namespace

}  // namespace cpu

std::unique_ptr<Backend> make_cpu() { return make_cpu(cpu_isas().back()); }

std::unique_ptr<Backend> make_cpu(Isa isa) {
  const std::vector<Isa> present = cpu_isas();
  return std::make_unique<cpu::CpuBackend>(
      std::find(present.begin(), present.end(), isa) != present.end() ? isa : present.back());
}

}  // namespace plumb::backends
