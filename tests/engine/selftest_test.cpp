// The canary's questions, and which of them the self-test asks.
#include "engine/selftest.h"

#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

namespace plumb::engine {
namespace {

TEST(Canary, ItsAnswersAreThoseOfTheFile) {
  std::ostringstream file, answers;
  file << std::ifstream(PLUMB_SOURCE "/models/canary-prompts.tsv").rdbuf();
  for (const KnownAnswer& answer : canary_answers()) answers << answer.input << '\t' << answer.expected << '\n';
  EXPECT_EQ(answers.str(), file.str());
}

TEST(Selftest, AsksInputsFromAllOverTheList) {
  const auto answers = canary_answers();
  for (const std::size_t n : {std::size_t{1}, std::size_t{12}, answers.size(), answers.size() + 1, std::size_t{0}}) {
    const std::size_t asked = n == 0 ? answers.size() : std::min(n, answers.size());
    std::size_t rows = 0;
    const auto result = selftest({.backends = {"cpu"}, .quants = {"F16"}, .n_inputs = n},
                                 [&](const SelftestRow& row, std::size_t done, std::size_t total) {
                                   EXPECT_EQ(row.input, answers[rows * answers.size() / asked].input);
                                   EXPECT_EQ(row.backend + row.quant, "cpuF16");
                                   EXPECT_TRUE(row.pass()) << row.input << " gives " << row.actual;
                                   EXPECT_EQ(done, ++rows);
                                   EXPECT_EQ(total, asked);
                                   return true;
                                 });
    ASSERT_TRUE(result) << result.error().message;
    EXPECT_EQ(result->size(), asked);
  }
}

TEST(Selftest, EachBackendAnswersInEachQuantization) {
  std::string order;
  const auto rows = selftest({.backends = {"cpu", "checker"}, .quants = {"F16", "Q8_0"}, .n_inputs = 3},
                             [&](const SelftestRow& row, std::size_t, std::size_t total) {
                               order += row.backend + " " + row.quant + " ";
                               EXPECT_EQ(total, 10U);  // the checker is slow and is asked 2
                               return true;
                             });
  ASSERT_TRUE(rows) << rows.error().message;
  EXPECT_EQ(order, "cpu F16 cpu F16 cpu F16 checker F16 checker F16 cpu Q8_0 cpu Q8_0 cpu Q8_0 checker Q8_0 checker Q8_0 ");
}

TEST(Selftest, StopsWhenItIsTold) {
  const auto rows = selftest({.backends = {"cpu"}, .quants = {"F16"}},
                             [](const SelftestRow&, std::size_t done, std::size_t) { return done < 3; });
  ASSERT_TRUE(rows) << rows.error().message;
  EXPECT_EQ(rows->size(), 3U);
}

TEST(Selftest, UnknownNamesAreErrorsBeforeTheFirstRow) {
  const auto none = [](const SelftestRow&, std::size_t, std::size_t) -> bool { throw std::logic_error("a row"); };
  EXPECT_FALSE(selftest({.backends = {"cpu", "abacus"}, .quants = {"F16"}}, none));
  EXPECT_FALSE(selftest({.backends = {"cpu"}, .quants = {"F16", "Q9"}}, none));
}

TEST(Selftest, AnotherAnswerIsNoPass) {
  EXPECT_TRUE((SelftestRow{.backend = {}, .quant = {}, .input = {}, .expected = "a", .actual = "a"}.pass()));
  EXPECT_FALSE((SelftestRow{.backend = {}, .quant = {}, .input = {}, .expected = "a", .actual = "a "}.pass()));
}

}  // namespace
}  // namespace plumb::engine
