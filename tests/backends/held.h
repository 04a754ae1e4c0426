// Compares backends with the reference, op by op. The reference computes each op again from the backend's own inputs. The
// two may differ by as much as diagnosis derives from the number formats (diagnose/arithmetic.h), and no more.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "backends/backend.h"
#include "backends/batch.h"
#include "backends/reference/ops.h"
#include "diagnose/arithmetic.h"

namespace plumb::backends {

// A way to run a plan.
struct Way {
  std::string name;
  std::function<Result<std::unique_ptr<Backend>>()> make;
  LoadOptions options;
  // The arithmetic of a step with that many rows.
  std::function<diagnose::Arithmetic(std::size_t n_rows)> arithmetic;
  // Ops run fused, so only the logits can be seen. Their variance is that of all ops before them.
  bool fused = false;
  double most_work = 0;         // the most multiplications of a case
  bool takes_gigabytes = true;  // runs cases with gigabytes of weights, which devices copy
};

// All ways on which op tests run: those of this processor, and GPUs, which some machines lack.
const std::vector<Way>& ways();
const Way& way(std::string_view name);

// The approximate number of multiplications of n_rows tokens after n_before others.
double work_of(const plan::Plan& plan, double n_rows, double n_before);

// Runs one sequence on a way, step by step.
class Held {
 public:
  // Fails the test if the plan cannot be loaded.
  Held(std::shared_ptr<const plan::Plan> plan, const Way& way, KvType type, std::uint32_t capacity);

  // Fails the test if the step cannot be run, or if an op differs by more than allowed. Unchecked steps only fill the
  // cache.
  void step(std::span<const TokenId> tokens, Outputs outputs, bool checked = true);

  [[nodiscard]] std::size_t n_checked() const { return n_checked_; }  // ops
  // The root mean square error of products with quantized weights, in standard deviations; 0 if there were none.
  [[nodiscard]] double rms_of_quantized() const;

 private:
  void load(std::uint32_t capacity);
  [[nodiscard]] reference::Scene scene(std::size_t n_rows) const;
  [[nodiscard]] diagnose::InputError error(plan::ValueId id, std::size_t n_rows) const;
  void write(const plan::KvWrite& op);
  void check(const plan::Op& op, bool checked);
  void check_probabilities(const plan::Attention& op);
  [[nodiscard]] std::vector<float> variance(const plan::Op& op, const reference::Scene& scene, std::span<const float> y,
                                            const diagnose::ProductSums& sums) const;
  void compare(std::string_view name, std::string_view op, std::span<const float> found, std::span<const float> expected,
               std::span<const float> variance, std::size_t width, double factor);

  // Keys or values of a layer, by position.
  struct Plane {
    std::vector<float> data, variance;
  };

  std::shared_ptr<const plan::Plan> plan_;
  const Way& way_;
  KvType type_;
  std::unique_ptr<Executor> executor_;
  std::unique_ptr<KvCache> cache_;
  std::vector<Row> rows_;  // of the step
  std::size_t n_outputs_ = 0;
  diagnose::Arithmetic arithmetic_;
  std::map<std::string, std::vector<float>, std::less<>> seen_;  // of the step
  std::vector<std::vector<float>> values_, variances_;           // by ValueId: what ops read, and its allowed variance
  std::vector<Plane> keys_, cached_values_;                      // by layer
  std::size_t n_checked_ = 0;
  double squares_ = 0, n_squares_ = 0;
};

}  // namespace plumb::backends
