#include "backends/cpu/cpu.h"

#include <algorithm>
#include <utility>

#include "backends/cpu/executor.h"
#include "backends/cpu/isa.h"
#include "base/machine.h"

namespace plumb::backends {

namespace {

class Cpu final : public Backend {
 public:
  explicit Cpu(Isa isa) : isa_(isa) {}

  [[nodiscard]] std::string_view name() const override { return "cpu"; }
  [[nodiscard]] std::string description() const override {
    const std::uint32_t n = usable_cores();
    return fmt::format("{}, {} thread{}", cpu::kernels(isa_).name, n, n == 1 ? "" : "s");
  }
  [[nodiscard]] Result<std::unique_ptr<Executor>> load(std::shared_ptr<const plan::Plan> plan,
                                                       const LoadOptions& options) override {
    return cpu::make_executor(std::move(plan), options, isa_);
  }

 private:
  Isa isa_;
};

}  // namespace

std::unique_ptr<Backend> make_cpu() { return make_cpu(cpu_isas().back()); }

std::unique_ptr<Backend> make_cpu(Isa isa) {
  const std::vector<Isa> present = cpu_isas();
  return std::make_unique<Cpu>(std::find(present.begin(), present.end(), isa) != present.end() ? isa : present.back());
}

}  // namespace plumb::backends
