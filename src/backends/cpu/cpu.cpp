#include "backends/cpu/cpu.h"

namespace plumb::backends {
namespace {

class Cpu final : public Backend {
 public:
  [[nodiscard]] std::string_view name() const override { return "cpu"; }
  [[nodiscard]] std::string description() const override { return "scalar, 1 thread"; }
  [[nodiscard]] Result<std::unique_ptr<Executor>> load(std::shared_ptr<const plan::Plan>, const LoadOptions&) override {
    return fail("the cpu backend cannot run a plan yet");
  }
};

}  // namespace

std::vector<Isa> cpu_isas() { return {Isa::scalar}; }
std::unique_ptr<Backend> make_cpu() { return make_cpu(cpu_isas().back()); }
std::unique_ptr<Backend> make_cpu(Isa) { return std::make_unique<Cpu>(); }

}  // namespace plumb::backends
