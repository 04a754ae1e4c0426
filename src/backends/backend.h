// The interface of what runs a Plan. A Backend is a way to run plans (reference, cpu, cuda, metal, checker). An Executor is
// one Plan loaded on a Backend: it takes the weights, runs steps, and gives any named value to an observer.
//
// Only one thread at a time may use an Executor and its caches. The same plan, tokens and batches give the same bits.
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
// "f16" or "f32".
Result<KvType> kv_type(std::string_view name);
std::string_view name(KvType type);
// The format of a cache's numbers.
quants::Format format_of(KvType type);
// Bytes of the keys and values of one position, in all layers.
std::uint64_t position_bytes(const plan::CacheShape& shape, KvType type);

// The common data of all caches from one call of new_caches().
struct CachePool {
  std::shared_ptr<const plan::CacheShape> shape;  // its address identifies the executor; caches keep it alive
  std::uint32_t n_caches = 0;
  std::uint32_t capacity = 0;  // positions of each cache
  KvType type = KvType::f16;
};

// Keys and values of one sequence, opaque except for its length. The Executor that uses it makes it. Sequences may run
// together if one call of new_caches() made their caches.
class KvCache {
 public:
  KvCache(std::shared_ptr<CachePool> pool, std::uint32_t slot) : pool_(std::move(pool)), slot_(slot) {}
  virtual ~KvCache() = default;
  [[nodiscard]] std::uint32_t length() const { return length_; }            // positions filled
  [[nodiscard]] std::uint32_t capacity() const { return pool_->capacity; }  // the most positions
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

// One sequence's part of a step: its T tokens take the positions from cache.length() on, and are added to the cache.
struct Step {
  KvCache* cache = nullptr;
  std::span<const TokenId> tokens;
  Outputs outputs = Outputs::last;
};

// Receives values while a step runs, in the order of ops. `data` is valid only during the call. Rows of several sequences
// are in the order of Batch (batch.h). Attention's weights (probs_name()) have rows = n_heads * T and width = S, the length
// of the longest sequence.
using Observer =
    std::function<void(std::string_view name, std::uint64_t rows, std::uint64_t width, std::span<const float> data)>;
// Whether the observer wants the value of that name.
using Wanted = std::function<bool(std::string_view name)>;
// The name of an attention's weights, "blk.N.attn_probs" beside the op's output "blk.N.attn_ctx": the only value that is no
// op's output.
std::string probs_name(const plan::Plan& plan, const plan::Attention& op);
bool is_probs_name(std::string_view name);

class Executor {
 public:
  virtual ~Executor() = default;

  [[nodiscard]] virtual const plan::Plan& plan() const = 0;
  // The most tokens of a step, over all its sequences.
  [[nodiscard]] virtual std::uint32_t max_batch() const = 0;
  // The CPU threads that compute or, on a GPU, wait for it.
  [[nodiscard]] virtual std::uint32_t n_threads() const { return 1; }
  // Caches of n sequences that may run together, each of `capacity` positions.
  [[nodiscard]] virtual Result<std::vector<std::unique_ptr<KvCache>>> new_caches(std::uint32_t n, std::uint32_t capacity,
                                                                                 KvType type) = 0;
  [[nodiscard]] Result<std::unique_ptr<KvCache>> new_cache(std::uint32_t capacity, KvType type);

  // Runs one step of several sequences, each with its own cache, all from one pool. Returns the logits, [outputs, vocab],
  // in the order of `steps`; they are valid until the next run. A sequence's results differ from those of running it alone
  // only by rounding. Errors: no steps; a step without tokens; a token outside the vocabulary; more tokens than
  // max_batch(); a cache that is full, of another executor, of another pool, or given twice. On error the caches stay as
  // they were.
  virtual Result<std::span<const float>> run(std::span<const Step> steps) = 0;
  Result<std::span<const float>> run(const Step& step) { return run(std::span(&step, 1)); }

  // A cache's keys and values: for each layer the keys, then the values, [n_kv_heads, length, head_dim] each (LayerCache),
  // of the cache's type. All backends have this layout. Error: a cache of another executor.
  [[nodiscard]] virtual Result<std::vector<std::byte>> read_cache(const KvCache& cache) = 0;
  // Puts `length` positions that read_cache() gave in place of a cache's content. Errors: a cache of another executor; more
  // positions than its capacity; another number of bytes.
  virtual Result<void> fill_cache(KvCache& cache, std::uint32_t length, std::span<const std::byte> bytes) = 0;

  // The names of weights whose bytes, read back from the device, differ from the file's. No value: the backend reads the
  // file's own bytes.
  virtual Result<std::optional<std::vector<std::string>>> changed_weights() {
    return std::optional<std::vector<std::string>>();
  }

  // From the next run on, gives the values that `wanted` accepts to `observer`. While values are watched, ops may run
  // unfused.
  void watch(Wanted wanted, Observer observer) {
    wanted_ = std::move(wanted);
    observer_ = std::move(observer);
  }
  void unwatch() { watch({}, {}); }

  // From the next run on, memory that a run will write (values, partial results, new caches) is first filled with `poison`
  // bytes, which are NaN as floats of any width. An op that reads memory before it is written then gives other bits. A
  // backend that allocates this memory anew for each run ignores this.
  void poison_memory(bool on) { poisons_ = on; }
  static constexpr std::byte poison{0xff};

 protected:
  [[nodiscard]] bool wants(std::string_view value) const { return observer_ && (!wanted_ || wanted_(value)); }
  Wanted wanted_;
  Observer observer_;
  bool poisons_ = false;
};

// How a backend may round the inputs of products with quantized weights. int8, with a scale for each block, is llama.cpp's
// way on the CPU; it can change the answers of a model with outliers among its activations, such as SmolLM2-135M. int16
// rounds 128 times finer. A backend that does not round ignores this.
enum class Activations : std::uint8_t { int16, int8 };
// "int16" or "int8".
Result<Activations> activations(std::string_view name);

inline constexpr std::uint32_t default_batch = 512;

// Called while weights are loaded, with bytes; false stops the loading, which is then an error.
using LoadProgress = std::function<bool(std::uint64_t done, std::uint64_t total)>;

struct LoadOptions {
  std::uint32_t n_threads = 0;  // 0: the cores this process may use
  // The most tokens of a step; 0: the backend's choice. Callers split longer prompts.
  std::uint32_t max_batch = default_batch;
  Activations activations = Activations::int16;
  bool shared_kernels = false;  // GPUs: use only the kernels that all targets share, none of the tuned ones
  // GPUs: every value stands between two guard zones, and a step that writes to one is an error. On in debug builds.
#ifdef NDEBUG
  bool guard_zones = false;
#else
  bool guard_zones = true;
#endif
  LoadProgress progress;  // GPUs: while weights are uploaded. Other backends read the file's mapping
};

class Backend {
 public:
  virtual ~Backend() = default;
  [[nodiscard]] virtual std::string_view name() const = 0;
  // One line for people, for a run on that many CPU threads (0: the cores this process may use): "AVX-512 VNNI, 2 threads".
  [[nodiscard]] virtual std::string description(std::uint32_t n_threads) const = 0;
  [[nodiscard]] virtual Result<std::unique_ptr<Executor>> load(std::shared_ptr<const plan::Plan> plan,
                                                               const LoadOptions& options) = 0;
};

// A backend that the command line may name.
struct BackendEntry {
  std::string_view name;
  // Makes the backend. Error: why this build or machine lacks it, and what would provide it.
  Result<std::unique_ptr<Backend>> (*make)();
  // `auto` does not choose it. True for the checker, which is for finding faults, and for Metal, which has yet to run on a
  // Mac.
  bool by_name_only = false;
};

// All backends of docs/cli.md but `auto`, in the order in which `auto` prefers them. Those that are not in this build fail
// with the reason.
std::span<const BackendEntry> all();

// The backend of that name; `auto` takes the first that can be made.
Result<std::unique_ptr<Backend>> make(std::string_view name);

}  // namespace plumb::backends
