// The checker finds every kind of fault that it promises to find, and says where: planted/kernels.h has kernels with one
// defect each. The same kernels pass without the defect, so the report is about the defect.
#include "backends/checker/checker.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>
#include <regex>

#include "backends/planted/planted.h"

namespace plumb::backends {
namespace {

using planted::Id;
using std::uint32_t;
namespace dialect {
using uint = std::uint32_t;
#include "backends/planted/params.h"
}  // namespace dialect

struct Case {
  std::string name;
  Id kernel;
  uint32_t defect = 0;
  std::string message;            // after the kernel's name
  uint32_t n_x = 100, n_y = 100;  // elements of x and y; threadgroups have 64 threads
  int unwritten = -1;             // this element of x is left unwritten
};
void PrintTo(const Case& c, std::ostream* out) { *out << c.name; }

Result<void> run(const Case& c, uint32_t defect) {
  const auto device = make_checker_device();
  std::vector<float> values(c.n_x);
  std::iota(values.begin(), values.end(), 1.0f);
  PLUMB_TRY(const auto x, device->allocate(4 * c.n_x, "x"));
  PLUMB_TRY(const auto y, device->allocate(4 * c.n_y, "y"));
  PLUMB_CHECK(device->upload({x.get(), 0, x->size()}, std::as_bytes(std::span(values))));
  if (c.unwritten >= 0) device->forget({x.get(), 4 * static_cast<std::uint64_t>(c.unwritten), 4});
  const dialect::PlantedParams p{.n = c.n_y, .defect = defect};
  gpu::Launch launch;
  launch.grid = {(c.n_y + PLANTED_THREADS - 1) / PLANTED_THREADS, 1, 1};
  launch.arguments = {
      {.view = {x.get(), 0, x->size()}, .access = gpu::Access::in, .element_bytes = 4, .name = "x"},
      {.view = {y.get(), 0, y->size()}, .access = gpu::Access::out, .element_bytes = 4, .name = "y"},
  };
  launch.params.resize(sizeof p);
  std::memcpy(launch.params.data(), &p, sizeof p);
  return checker::run_kernel(planted::entry(c.kernel), planted::names[static_cast<int>(c.kernel)], PLANTED_THREADS, launch);
}

class PlantedDefect : public testing::TestWithParam<Case> {};

// clang copies structs by the C library, which calls no hooks, so the checker does not see the copy.
#ifdef __clang__
bool is_unseen(const Case& c) { return c.kernel == Id::copied_as_struct; }
#else
bool is_unseen(const Case&) { return false; }
#endif

TEST_P(PlantedDefect, IsReportedWithItsPlace) {
  const Case& c = GetParam();
  if (is_unseen(c)) GTEST_SKIP() << "clang's instrumentation does not show copies of structs";
  const auto result = run(c, c.defect);
  ASSERT_FALSE(result) << "the checker saw nothing";
  const std::string message = std::regex_replace(result.error().message, std::regex("line [0-9]+"), "line L");
  EXPECT_EQ(message, "kernel " + std::string(planted::names[static_cast<int>(c.kernel)]) + c.message);
}

// After a defect the checker still works, and without the defect the kernel passes.
TEST_P(PlantedDefect, HealedPasses) {
  Case healed = GetParam();
  if (is_unseen(healed)) GTEST_SKIP() << "clang's instrumentation does not show copies of structs";
  (void)run(healed, healed.defect);
  healed.unwritten = -1;
  healed.n_x = std::max(healed.n_x, 100u);
  const auto result = run(healed, 0);
  EXPECT_TRUE(result) << result.error().message;
}

std::vector<Case> cases() {
  constexpr auto before = static_cast<uint32_t>(-1);
  const std::string race = " with no barrier between: a race";
  const std::string unwritten_shared =
      " of argument 'shared memory', which nobody has written so far in the threadgroup: never, or with no barrier between";
  return {
      {"ReadJustPastTheEnd", Id::read_at_offset, 1,
       ", threadgroup (1, 0, 0), thread 35: reads element 100 of argument 'x', which has 100"},
      {"ReadFarPastTheEnd", Id::read_at_offset, 1u << 29,
       ", threadgroup (0, 0, 0), thread 0: reads element 536870912 of argument 'x', which has 100"},
      {"ReadAGigawordPastTheEnd", Id::read_at_offset, 1u << 30,
       ", threadgroup (0, 0, 0), thread 0: reads element 1073741824 of argument 'x', which has 100"},
      {"ReadBeforeTheBeginning", Id::read_at_offset, before,
       ", threadgroup (0, 0, 0), thread 0: reads element -1 of argument 'x', which has 100"},
      {"WriteJustPastTheEnd", Id::write_at_offset, 1,
       ", threadgroup (1, 0, 0), thread 35: writes element 100 of argument 'y', which has 100"},
      {"WriteFarPastTheEnd", Id::write_at_offset, 1u << 29,
       ", threadgroup (0, 0, 0), thread 0: writes element 536870912 of argument 'y', which has 100"},
      {"WriteBeforeTheBeginning", Id::write_at_offset, before,
       ", threadgroup (0, 0, 0), thread 0: writes element -1 of argument 'y', which has 100"},
      {"VectorPastTheEnd", Id::vector_at_offset, 4,
       ", threadgroup (0, 0, 0), thread 24: reads element 100 of argument 'x', which has 100"},
      {"VectorAcrossTheEnd", Id::vector_at_offset, 0,
       ", threadgroup (0, 0, 0), thread 24: reads element 96 of argument 'x', which has 98", 98, 98},
      {"VectorMisaligned", Id::vector_at_offset, 2,
       ", threadgroup (0, 0, 0), thread 0: reads 16 bytes at element 2 of argument 'x', byte 8: not a multiple of 16"},
      {"LoopReadsPastTheEnd", Id::copied_by_one_thread, 1,
       ", threadgroup (0, 0, 0), thread 0: reads element 100 of argument 'x', which has 100"},
      {"LoopClearsPastTheEnd", Id::cleared_by_one_thread, 1,
       ", threadgroup (0, 0, 0), thread 0: writes element 100 of argument 'y', which has 100"},
      {"StructReadAcrossTheEnd", Id::copied_as_struct, 1,
       ", threadgroup (0, 0, 0), thread 4: reads element 81 of argument 'x', which has 100"},
      {"UnwrittenInput", Id::read_at_offset, 0,
       ", threadgroup (0, 0, 0), thread 50: reads element 50 of argument 'x', which nobody has written", 100, 100, 50},
      {"OutputReadBeforeItIsWritten", Id::output_read_first, 1,
       ", threadgroup (0, 0, 0), thread 0: reads element 0 of argument 'y', which nobody has written"},
      {"WriteToInput", Id::write_to_input, 1,
       ", threadgroup (0, 0, 0), thread 0: writes element 0 of argument 'x', which is read-only"},
      {"OutputLeftUnwritten", Id::element_left_out, 37, ": element 37 of its output 'y' is left unwritten"},
      {"LastOutputLeftUnwritten", Id::element_left_out, 99, ": element 99 of its output 'y' is left unwritten"},
      {"ThreadgroupsWriteOneElement", Id::groups_write_one_element, 1,
       ", threadgroup (1, 0, 0), thread 0: writes element 0 of argument 'y' while another threadgroup writes it" + race},
      {"ThreadgroupReadsWhatAnotherWrites", Id::group_reads_what_another_writes, 1,
       ", threadgroup (1, 0, 0), thread 0: reads element 0 of argument 'y' while another threadgroup writes it" + race},
      {"BarrierForDeviceMemory", Id::barrier_for_device_memory, 1,
       ", threadgroup (0, 0, 0), thread 63: reads element 62 of argument 'y' while thread 62 writes it" + race},
      {"SharedReadPastTheEnd", Id::shared_read_at_offset, 1,
       ", threadgroup (0, 0, 0), thread 0: reads element 64 of argument 'shared memory', which has 64"},
      {"SharedWritePastTheEnd", Id::shared_write_at_offset, 1,
       ", threadgroup (0, 0, 0), thread 63: writes element 64 of argument 'shared memory', which has 64"},
      {"SharedWriteFarPastTheEnd", Id::shared_write_at_offset, 1u << 20,
       ", threadgroup (0, 0, 0), thread 0: writes element 1048576 of argument 'shared memory', which has 64"},
      {"SharedReadUnwritten", Id::shared_element_left_out, 63,
       ", threadgroup (0, 0, 0), thread 0: reads element 63" + unwritten_shared},
      {"SharedReadOfTheGroupBefore", Id::shared_of_the_group_before, 1,
       ", threadgroup (1, 0, 0), thread 0: reads element 63" + unwritten_shared},
      {"BarrierMissingBeforeRead", Id::barrier_before_read, 1,
       ", threadgroup (0, 0, 0), thread 0: reads element 63" + unwritten_shared},
      {"BarrierMissingAfterWrite", Id::barrier_before_read, 2,
       ", threadgroup (0, 0, 0), thread 1: reads element 0 of argument 'shared memory' while thread 0 writes it" + race},
      {"BarrierMissingBeforeWrite", Id::barrier_before_write, 1,
       ", threadgroup (0, 0, 0), thread 0: reads element 63 of argument 'shared memory' while thread 63 writes it" + race},
      {"SimdBarrierMissingBeforeRead", Id::simd_barrier_before_read, 1,
       ", threadgroup (0, 0, 0), thread 0: reads element 31" + unwritten_shared},
      {"SimdBarrierAcrossSimdGroups", Id::simd_barrier_before_read, 2,
       ", threadgroup (0, 0, 0), thread 31: reads element 32" + unwritten_shared},
      {"SimdBarrierMissingBeforeWrite", Id::simd_barrier_before_write, 1,
       ", threadgroup (0, 0, 0), thread 0: writes element 0 of argument 'shared memory' while another thread reads it" +
           race},
      {"BarrierForSomeThreads", Id::barrier_for_some_threads, 1,
       ", threadgroup (0, 0, 0): threadgroup_barrier at line L is not reached by all threads of the threadgroup: thread 0 "
       "waits at threadgroup_barrier (line L), thread 40 has ended"},
      {"BarriersAtTwoPlaces", Id::barriers_at_two_places, 1,
       ", threadgroup (0, 0, 0), thread 63: threads meet at different barriers: thread 63 at line L, thread 0 waits at "
       "threadgroup_barrier (line L)"},
      {"SimdSumForSomeLanes", Id::simd_sum_for_some_lanes, 1,
       ", threadgroup (0, 0, 0): simd_sum at line L is not reached by all threads of the SIMD-group: thread 0 waits at "
       "simd_sum (line L), thread 16 has ended"},
      {"SimdOperationsOfTwoKinds", Id::simd_operations_of_two_kinds, 1,
       ", threadgroup (0, 0, 0), thread 31: lanes of a SIMD-group meet at different operations: thread 31 at simd_max "
       "(line "
       "L), thread 0 waits at simd_sum (line L)"},
      {"SimdSumBesideABarrier", Id::simd_sum_beside_a_barrier, 1,
       ", threadgroup (0, 0, 0): simd_sum at line L is not reached by all threads of the SIMD-group: thread 0 waits at "
       "simd_sum (line L), thread 16 waits at threadgroup_barrier (line L)"},
      {"ShufflePastTheSimdGroup", Id::shuffle_at_offset, 1,
       ", threadgroup (0, 0, 0), thread 0: simd_shuffle at line L reads lane 32 of 32"},
  };
}

TEST(Checker, RefusesGridsThatCudaDoesNotLaunch) {
  const checker::Body body = [](void* const*, void*, std::array<std::uint32_t, 3>, std::uint32_t) {};
  for (const std::array<std::uint32_t, 3> grid : {std::array{1U, 65536U, 1U}, std::array{1U, 1U, 65536U}}) {
    EXPECT_FALSE(checker::run_threadgroups(grid, 32, body, nullptr, nullptr));
    EXPECT_NE(checker::machine.fault.find("at most 65535"), std::string::npos) << checker::machine.fault;
  }
  EXPECT_TRUE(checker::run_threadgroups({1, 65535, 1}, 1, body, nullptr, nullptr)) << checker::machine.fault;
}

TEST(Checker, NoticesWhatTheHostReadsUnwritten) {
  const auto device = make_checker_device();
  const auto memory = std::move(*device->allocate(16, "x"));
  std::array<std::byte, 16> bytes{};
  EXPECT_FALSE(device->download({memory.get(), 0, 16}, bytes));
  ASSERT_TRUE(device->upload({memory.get(), 0, 12}, std::span(bytes).first(12)));
  EXPECT_TRUE(device->download({memory.get(), 0, 12}, std::span(bytes).first(12)));
  EXPECT_FALSE(device->download({memory.get(), 8, 8}, std::span(bytes).first(8)));
}

std::string case_name(const testing::TestParamInfo<Case>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Planted, PlantedDefect, testing::ValuesIn(cases()), case_name);

}  // namespace
}  // namespace plumb::backends
