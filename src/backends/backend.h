// What runs a Plan. A Backend is a way to run (reference, cpu, cuda, metal, checker); an Executor is one Plan loaded
// on it: it takes the weights, runs steps, and gives any named value back. The interface is small on purpose.
//
// An Executor and its caches belong to one thread at a time. Same plan, tokens and batches: the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "plan/plan.h"

namespace plumb::backends {

using TokenId = std::int32_t;

enum class KvType : std::uint8_t { f16, f32 };

// What the caches of one call of new_caches() have in common.
struct CachePool {
  std::shared_ptr<const plan::CacheShape> shape;  // its address names the executor, and a cache keeps it alive
  std::uint32_t n_caches = 0;
  std::uint32_t capacity = 0;  // positions of each
  KvType type = KvType::f16;
};

// Keys and values of one sequence. Opaque but for its length; made by the Executor that uses it. Sequences run together
// where their caches were made together, by one call of new_caches().
class KvCache {
 public:
  KvCache(std::shared_ptr<CachePool> pool, std::uint32_t slot) : pool_(std::move(pool)), slot_(slot) {}
  virtual ~KvCache() = default;
  [[nodiscard]] std::uint32_t length() const { return length_; }            // positions filled
  [[nodiscard]] std::uint32_t capacity() const { return pool_->capacity; }  // positions there is room for
  // Forgets the positions from `length` on.
  void truncate(std::uint32_t length) { length_ = length < length_ ? length : length_; }

  // For executors.
  [[nodiscard]] CachePool& pool() const { return *pool_; }
  [[nodiscard]] std::uint32_t slot() const { return slot_; }  // in the pool
  void extend(std::uint32_t n) { length_ += n; }

 private:
  std::shared_ptr<CachePool> pool_;
  std::uint32_t slot_;
  std::uint32_t length_ = 0;
};

enum class Outputs : std::uint8_t { last, all };

// What one sequence adds in a step: the tokens take positions cache.length() .. + T-1, and are added to the cache.
struct Step {
  KvCache* cache = nullptr;
  std::span<const TokenId> tokens;
  Outputs outputs = Outputs::last;
};

// Receives values while a step runs, in op order. `data` is valid during the call only. The rows of several sequences are
// in the order of Batch (batch.h). For attention probabilities (probs_name()) rows = n_heads * T and width = S, the longest
// of the sequences.
using Observer =
    std::function<void(std::string_view name, std::uint64_t rows, std::uint64_t width, std::span<const float> data)>;
// Which values to hand to the observer.
using Wanted = std::function<bool(std::string_view name)>;
// The name of a layer's attention probabilities, "blk.N.attn_probs": the one value that no op of the plan has as output.
std::string probs_name(std::uint32_t layer);
bool is_probs_name(std::string_view name);

class Executor {
 public:
  virtual ~Executor() = default;

  [[nodiscard]] virtual const plan::Plan& plan() const = 0;
  // Most tokens of a step, those of all its sequences together.
  [[nodiscard]] virtual std::uint32_t max_batch() const = 0;
  // Caches of n sequences that may run together, each of `capacity` positions.
  [[nodiscard]] virtual Result<std::vector<std::unique_ptr<KvCache>>> new_caches(std::uint32_t n, std::uint32_t capacity,
                                                                                 KvType type) = 0;
  [[nodiscard]] Result<std::unique_ptr<KvCache>> new_cache(std::uint32_t capacity, KvType type);

  // Runs one step of several sequences, each with a cache of its own out of one pool, and returns the logits, [outputs,
  // vocab], in the order of the steps, valid until the next run. What a sequence gets differs from what it gets alone by
  // rounding only. Errors: no steps or one without tokens, a token outside the vocabulary, more tokens than max_batch(), a
  // cache that is full, another executor's, another pool's, or there twice. On error the caches are as they were.
  virtual Result<std::span<const float>> run(std::span<const Step> steps) = 0;
  Result<std::span<const float>> run(const Step& step) { return run(std::span(&step, 1)); }

  // Names of the weights whose bytes on the device, read back, are not the file's; none where the backend reads the file's
  // own bytes.
  virtual Result<std::optional<std::vector<std::string>>> changed_weights() {
    return std::optional<std::vector<std::string>>();
  }

  // From the next run on, hands the values that `wanted` names to `observer`. Watching may run ops unfused.
  void watch(Wanted wanted, Observer observer) {
    wanted_ = std::move(wanted);
    observer_ = std::move(observer);
  }
  void unwatch() { watch({}, {}); }

  // From the next run on, memory that a run is to write (values, partial results, new caches) is filled with `poison`
  // bytes before it: NaN as floats of any width. What reads before it writes then gives other bits, or none. A backend
  // that makes such memory anew ignores this.
  void poison_memory(bool on) { poisons_ = on; }
  static constexpr std::byte poison{0xff};

 protected:
  [[nodiscard]] bool wants(std::string_view value) const { return observer_ && (!wanted_ || wanted_(value)); }
  Wanted wanted_;
  Observer observer_;
  bool poisons_ = false;
};

// How a backend may round the inputs of products with quantized weights. int8, with a scale a block, is what llama.cpp's
// CPU code does; it can change the answer of a model with outliers among its activations (SmolLM2-135M says something else
// than it does with exact activations). int16 rounds 128 times finer. A backend that does not round ignores this.
enum class Activations : std::uint8_t { int16, int8 };

inline constexpr std::uint32_t default_batch = 512;

struct LoadOptions {
  std::uint32_t n_threads = 0;  // 0: the cores this process may use
  // Most tokens a step will have (0: the backend's choice); longer prompts are cut by the caller.
  std::uint32_t max_batch = default_batch;
  Activations activations = Activations::int16;
  bool shared_kernels = false;  // GPUs: only the kernels that all targets share, none tuned for one
  // GPUs: every value lies between zones of its own, and a step that writes to one is an error. In debug builds.
#ifdef NDEBUG
  bool guard_zones = false;
#else
  bool guard_zones = true;
#endif
};

class Backend {
 public:
  virtual ~Backend() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;
  // One line for people: "AVX-512 VNNI, 2 threads".
  [[nodiscard]] virtual std::string description() const = 0;
  [[nodiscard]] virtual Result<std::unique_ptr<Executor>> load(std::shared_ptr<const plan::Plan> plan,
                                                               const LoadOptions& options) = 0;
};

// A backend the command line may name.
struct BackendEntry {
  std::string_view name;
  // Makes it, or says why it is not here and what would provide it.
  Result<std::unique_ptr<Backend>> (*make)();
  // `auto` does not take it: the checker, which is for finding faults, and Metal, which has yet to run on a Mac.
  bool by_name_only = false;
};

// Every name of cli.md but `auto`, in the order in which `auto` prefers them; those not built in fail with the reason.
std::span<const BackendEntry> all();

// By name; `auto` takes the first that can be made.
Result<std::unique_ptr<Backend>> make(std::string_view name);

}  // namespace plumb::backends
